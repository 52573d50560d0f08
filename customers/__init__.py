"""The customers of a booking business, in Microsoft Graph's language, on Azure Table Storage.

The arrows between the modules run one way::

    function_app -> api -> query, filter -> table -> insert, model -> keys, errors
                    api -> wire, identity -> settings
"""
