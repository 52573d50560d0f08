#!/bin/sh
# azd runs this after it deploys: it waits for the service, and prints where it is and how to call it as oneself.
set -eu
base=$(azd env get-value baseUrl)
storage=$(azd env get-value tableServiceUri)
# The first health check of a new table also marks it as indexed, while it is empty.
if ! curl --silent --show-error --fail --output /dev/null --retry 10 --retry-delay 6 --retry-all-errors "$base/healthz"; then
    echo "The service is not healthy: $base/healthz. A new deployment may take some minutes until its rights are known." >&2
fi
audience=${TOKEN_AUDIENCE:-$(azd env get-value TOKEN_AUDIENCE)}
audience=${audience%%,*}
cat <<END

The service is ready: $base

Let yourself in, once (it takes a minute to be known everywhere):

infra/app-registration.sh allow $audience \$(az ad signed-in-user show --query id --output tsv) Bookings.ReadWrite.All
infra/app-registration.sh cli $audience Bookings.ReadWrite.All

Become the administrator of a business. It takes the role Storage Table Data Contributor on the storage account:

make python
CUSTOMERS_STORAGE__tableServiceUri=$storage .venv/bin/python -m customers members add --business Contoso@contoso.onmicrosoft.com --user \$(az ad signed-in-user show --query id --output tsv) --role administrator

Add a customer:

curl -i $base/beta/bookingBusinesses/Contoso@contoso.onmicrosoft.com/customers -H "Authorization: Bearer \$(az account get-access-token --scope api://$audience/.default --query accessToken --output tsv)" -H 'Content-Type: application/json' -d '{"@odata.type": "#microsoft.graph.bookingCustomer", "displayName": "Display Name value", "emailAddress": "Email Address value"}'

END
