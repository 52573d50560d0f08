"""The customers of a booking business, in Microsoft Graph's language, on Azure Table Storage.

The arrows between the modules run one way::

    function_app -> api -> query, filter -> table -> row -> model -> keys, errors
                    api -> repeatability -> row      storage -> settings
                    api -> wire, identity -> settings
"""
