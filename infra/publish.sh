#!/bin/sh
# Deploys the package that "make package" made, without azd: "publish.sh RESOURCE_GROUP FUNCTION_APP". It needs "az login"
# and curl. It is here because "az functionapp deployment source config-zip" has Azure build every Python app on Flex
# Consumption again, whatever it is told.
set -eu
if [ $# -ne 2 ] || [ -z "$1" ] || [ -z "$2" ]; then
    echo "Usage: publish.sh RESOURCE_GROUP FUNCTION_APP" >&2
    exit 2
fi
package=$(dirname "$0")/../.local/package.zip
if [ ! -e "$package" ]; then
    echo "There is no package. Run: make package" >&2
    exit 1
fi
site="/subscriptions/{subscriptionId}/resourceGroups/$1/providers/Microsoft.Web/sites/$2?api-version=2024-11-01"
host=$(az rest --url "$site" --query "properties.hostNameSslStates[?hostType=='Repository'].name | [0]" --output tsv)
if [ -z "$host" ]; then
    echo "$2 has no deployment site." >&2
    exit 1
fi
token=$(az account get-access-token --query accessToken --output tsv)

# Sends a request to the app's deployment site. The token goes through a pipe: other users can see a command line.
ask() {
    printf 'Authorization: Bearer %s\n' "$token" | curl --silent --show-error --fail-with-body --header @- "$@"
}

echo "Sending the package to $host ..." >&2
ask --header "Content-Type: application/zip" --data-binary "@$package" "https://$host/api/publish?RemoteBuild=false" >&2
tries=0
while [ $tries -lt 150 ]; do
    # The site is away for a while when the app restarts; what counts is the last status.
    answer=$(ask "https://$host/api/deployments/latest" 2>/dev/null || true)
    case $(printf '%s' "$answer" | sed -n 's/.*"status": *\(-\{0,1\}[0-9]*\).*/\1/p') in
    4)
        echo "Deployed." >&2
        exit 0
        ;;
    3 | 5 | 6 | -1)
        echo "The deployment failed: $answer" >&2
        exit 1
        ;;
    esac
    tries=$((tries + 1))
    sleep 2
done
echo "The deployment has not ended after five minutes. Its state: https://$host/api/deployments/latest" >&2
exit 1
