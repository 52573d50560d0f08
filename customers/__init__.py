"""The customers of a booking business, in Microsoft Graph's language, on Azure Table Storage."""
