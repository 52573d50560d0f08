#!/bin/sh
# azd runs this before it provisions: where TOKEN_AUDIENCE is empty, it registers the API in Entra ID, or finds the
# registration by its unique name, and sets TOKEN_AUDIENCE. It needs "az login", to the tenant of the subscription.
set -eu
if [ -n "${TOKEN_AUDIENCE:-}" ]; then
    exit 0
fi
tenant=$(az account show --query tenantId --output tsv)
if [ -n "${AZURE_SUBSCRIPTION_ID:-}" ]; then
    wanted=$(az account show --subscription "$AZURE_SUBSCRIPTION_ID" --query tenantId --output tsv)
    if [ "$tenant" != "$wanted" ]; then
        echo "The Azure CLI is signed in to the tenant $tenant, and the subscription belongs to $wanted. Run: az account set --subscription $AZURE_SUBSCRIPTION_ID" >&2
        exit 1
    fi
fi
audience=$("$(dirname "$0")/../app-registration.sh" create)
azd env set TOKEN_AUDIENCE "$audience"
echo "Registered the API in the tenant $tenant: $audience"
