#!/bin/sh
# Registers the API in Microsoft Entra ID, and lets callers in. Needs the Azure CLI, signed in (az login).
#
#   app-registration.sh create [NAME]                     makes or updates the registration; prints its client id,
#                                                         which is the audience of its tokens
#   app-registration.sh allow AUDIENCE CLIENT [ROLE]      gives the application with the client id CLIENT an
#                                                         application role, Bookings.Manage.All if it is left off
#
# The scopes and roles are in app-registration.json. A scope and a role of one name share their id and texts, without
# which Entra ID refuses the second as a duplicate.
set -eu
here=$(dirname "$0")
graph=https://graph.microsoft.com/v1.0
azure_cli=04b07795-8ddb-461a-bbee-02f9e1bf7b46 # the Azure CLI's own client id, the same in every tenant

create() {
    name=${1:-Booking customers}
    audience=$(az ad app list --display-name "$name" --query "[?displayName=='$name'].appId | [0]" --output tsv)
    if [ -z "$audience" ]; then
        audience=$(az ad app create --display-name "$name" --query appId --output tsv)
    fi
    app="$graph/applications(appId='$audience')"
    az rest --method PATCH --url "$app" --body @"$here/app-registration.json" --output none
    # Scopes must be there before a client can be authorized for one, hence a second step.
    scope=$(az rest --method GET --url "$app" --output tsv \
        --query "api.oauth2PermissionScopes[?value=='Bookings.Manage.All'].id | [0]")
    az rest --method PATCH --url "$app" --output none --body "{\"identifierUris\": [\"api://$audience\"], \
\"api\": {\"preAuthorizedApplications\": [{\"appId\": \"$azure_cli\", \"delegatedPermissionIds\": [\"$scope\"]}]}}"
    if [ -z "$(service_principal "$audience")" ]; then
        az ad sp create --id "$audience" --output none
    fi
    echo "$audience"
}

allow() {
    api=$(service_principal "$1")
    client=$(service_principal "$2")
    role=$(az ad sp show --id "$1" --query "appRoles[?value=='${3:-Bookings.Manage.All}'].id | [0]" --output tsv)
    if [ -z "$api" ] || [ -z "$client" ] || [ -z "$role" ]; then
        echo "There is no such audience, client or role." >&2
        exit 1
    fi
    az rest --method POST --url "$graph/servicePrincipals/$api/appRoleAssignedTo" --output none \
        --body "{\"principalId\": \"$client\", \"resourceId\": \"$api\", \"appRoleId\": \"$role\"}"
}

# Prints the object id of an application's service principal; nothing if it has none.
service_principal() {
    az ad sp list --filter "appId eq '$1'" --query '[0].id' --output tsv
}

case "${1:-}:$#" in
create:1 | create:2 | allow:3 | allow:4) "$@" ;;
*)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
