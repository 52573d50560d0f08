#!/bin/sh
# azd runs this after it deploys: it prints where the service is, and how to call it as oneself.
set -eu
base=$(azd env get-value baseUrl)
audience=${TOKEN_AUDIENCE:-$(azd env get-value TOKEN_AUDIENCE)}
audience=${audience%%,*}
cat <<END

The service is ready: $base

Let yourself in, once (it takes a minute to be known everywhere):

infra/app-registration.sh allow $audience \$(az ad signed-in-user show --query id --output tsv) Bookings.ReadWrite.All
infra/app-registration.sh cli $audience Bookings.ReadWrite.All

Add a customer:

curl -i $base/beta/bookingBusinesses/Contoso@contoso.onmicrosoft.com/customers -H "Authorization: Bearer \$(az account get-access-token --scope api://$audience/.default --query accessToken --output tsv)" -H 'Content-Type: application/json' -d '{"@odata.type": "#microsoft.graph.bookingCustomer", "displayName": "Display Name value", "emailAddress": "Email Address value"}'

END
