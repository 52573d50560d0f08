"""The customers of a booking business, in Microsoft Graph's language, on Azure Table Storage.

The arrows between the modules run one way::

    function_app -> api -> query, filter, repeatability -> table -> row -> model -> keys, errors
                     |                                       +----> storage -> insert, settings
                     +---> wire -> identity -> settings
"""
