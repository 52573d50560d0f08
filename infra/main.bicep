// The whole deployment. azd deploys at the scope of the subscription, because it also creates the resource group.
targetScope = 'subscription'

@minLength(1)
@maxLength(64)
@description('The name of the deployment; the names of all resources come from it.')
param environmentName string

// The regions with Flex Consumption, as Azure's own template for Python has them (read on 2026-11-24; without the early
// one): https://github.com/Azure-Samples/functions-quickstart-python-http-azd/blob/main/infra/main.bicep
// Today's are listed by: az functionapp list-flexconsumption-locations
@allowed([
  'australiaeast'
  'australiasoutheast'
  'brazilsouth'
  'canadacentral'
  'centralindia'
  'centralus'
  'eastasia'
  'eastus'
  'eastus2'
  'francecentral'
  'germanywestcentral'
  'italynorth'
  'japaneast'
  'koreacentral'
  'northcentralus'
  'northeurope'
  'norwayeast'
  'southafricanorth'
  'southcentralus'
  'southeastasia'
  'southindia'
  'spaincentral'
  'swedencentral'
  'uaenorth'
  'uksouth'
  'ukwest'
  'westcentralus'
  'westeurope'
  'westus'
  'westus2'
  'westus3'
])
@description('The region of all resources.')
@metadata({ azd: { type: 'location' } })
param location string

@description('The tenant whose tokens are accepted.')
param tenantId string = tenant().tenantId

@minLength(36) // a client id; what infra/main.parameters.json has until there is one is shorter
@description('The accepted audiences, separated by commas: the client id that infra/app-registration.sh prints.')
param audience string

@description('The issuer of tokens; other clouds have other authorities.')
param authority string = environment().authentication.loginEndpoint

@description('Accepts the tokens of guests of the tenant, recognised by the claim acct.')
param allowGuests bool = false

@allowed(['members', 'tenant'])
@description('Which businesses a person reaches: those in which they are a member, or all of the tenant.')
param businessAccess string = 'members'

@description('The values of X-Forwarded-Host that links may have, separated by commas, ports included.')
param forwardedHosts string = ''

@allowed(['none', 'smtp'])
@description('smtp requires valid e-mail addresses of customers.')
param emailAddressCheck string = 'none'

@minValue(1)
@maxValue(100000)
@description('Concurrent requests in one process; one more is refused.')
param maxConcurrentRequests int = 1000

@minValue(1024)
@maxValue(104857600)
@description('The longest body of a request, in bytes.')
param bodyLimit int = 1048576

@minValue(1)
@description('Seconds to connect to storage.')
param storageConnectTimeout int = 2

@minValue(1)
@description('Seconds for one response of storage.')
param storageReadTimeout int = 4

@minValue(1)
@maxValue(200)
@description('Seconds for all that a request does with storage.')
param storageBudget int = 10

@description('Spreads the app and its storage over the zones of a region that has zones.')
param zoneRedundant bool = false

@allowed(['', 'Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS'])
@description('How the customers are replicated. Empty means Standard_LRS, or Standard_ZRS with zoneRedundant.')
param storageSku string = ''

@allowed(['RollingUpdate', 'Recreate'])
@description('How a deployment replaces running instances: in batches that finish their requests, or all at once.')
param updateStrategy string = 'RollingUpdate'

@allowed([512, 2048, 4096])
@description('Memory per instance, in MB.')
param instanceMemoryMB int = 2048

@minValue(1)
@maxValue(1000)
@description('The maximum number of instances.')
param maximumInstanceCount int = 100

@minValue(1)
@maxValue(1000)
@description('Concurrent requests per instance. The app awaits storage most of the time, so it can take many.')
param requestsPerInstance int = 16

@minValue(0)
@description('Instances that are always running, and billed, so that no request waits for a cold start.')
param alwaysReadyInstances int = 0

@description('Puts storage behind private endpoints, in a network that the app joins.')
param privateNetwork bool = false

@minValue(-1)
@description('The most logs per day, in GB; what comes after that is lost. -1 for no limit.')
param logsDailyQuotaGb int = -1

@description('Logs every table operation, with its caller and keys.')
param storageLogs bool = false

@description('Who gets the alerts; nobody if it is empty.')
param alertEmail string = ''

var token = uniqueString(subscription().id, environmentName, location)
var tags = { 'azd-env-name': environmentName }
// Known before the deployment, unlike the outputs of modules: so "az deployment sub what-if" can predict everything.
var names = {
  app: 'func-${token}'
  appIdentity: 'id-app-${token}'
  packagesIdentity: 'id-package-${token}'
  storage: 'st${token}'
  table: 'customers'
  packages: 'pk${token}'
  packagesContainer: 'packages'
  network: 'vnet-${token}'
  workspace: 'log-${token}'
  telemetry: 'appi-${token}'
}
var hosts = {
  blobs: 'https://${names.storage}.blob.${environment().suffixes.storage}'
  tables: 'https://${names.storage}.table.${environment().suffixes.storage}'
  packages: 'https://${names.packages}.blob.${environment().suffixes.storage}'
}
var sku = empty(storageSku) ? (zoneRedundant ? 'Standard_ZRS' : 'Standard_LRS') : storageSku
var zonalSkus = ['Standard_ZRS', 'Standard_GZRS']

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'identity.bicep' = {
  scope: group
  params: {
    name: names.appIdentity
    location: location
    tags: tags
  }
}

module packagesIdentity 'identity.bicep' = {
  scope: group
  params: {
    name: names.packagesIdentity
    location: location
    tags: tags
  }
}

module network 'network.bicep' = if (privateNetwork) {
  scope: group
  params: {
    name: names.network
    location: location
    tags: tags
  }
}

module monitoring 'monitoring.bicep' = {
  scope: group
  dependsOn: [identity]
  params: {
    workspaceName: names.workspace
    telemetryName: names.telemetry
    location: location
    tags: tags
    identityName: names.appIdentity
    dailyQuotaGb: logsDailyQuotaGb
  }
}

module storage 'storage.bicep' = {
  scope: group
  dependsOn: [identity, monitoring]
  params: {
    name: names.storage
    location: location
    tags: tags
    sku: zoneRedundant && !contains(zonalSkus, sku)
      ? fail('zoneRedundant needs storageSku Standard_ZRS or Standard_GZRS, or none.')
      : sku
    tableName: names.table
    identityName: names.appIdentity
    privateNetwork: privateNetwork
    logs: storageLogs
    workspaceName: names.workspace
  }
}

module packages 'packages.bicep' = {
  scope: group
  dependsOn: [packagesIdentity]
  params: {
    name: names.packages
    location: location
    tags: tags
    // A lost package is deployed again, but instances in other zones must be able to start.
    sku: zoneRedundant ? 'Standard_ZRS' : 'Standard_LRS'
    containerName: names.packagesContainer
    identityName: names.packagesIdentity
    privateNetwork: privateNetwork
  }
}

module endpoints 'endpoints.bicep' = if (privateNetwork) {
  scope: group
  dependsOn: [network, storage, packages]
  params: {
    location: location
    tags: tags
    storageName: names.storage
    packagesName: names.packages
    networkName: names.network
  }
}

module alerts 'alerts.bicep' = {
  scope: group
  dependsOn: [monitoring, storage]
  params: {
    location: location
    tags: tags
    workspaceName: names.workspace
    storageName: names.storage
    email: alertEmail
  }
}

module workbook 'workbook.bicep' = {
  scope: group
  dependsOn: [monitoring, storage]
  params: {
    location: location
    tags: tags
    workspaceName: names.workspace
    storageName: names.storage
  }
}

module api 'function.bicep' = {
  scope: group
  // The app starts at once, and can't without its storage.
  dependsOn: [storage, packages, monitoring, endpoints]
  params: {
    name: names.app
    location: location
    tags: tags
    identityName: names.appIdentity
    packagesIdentityName: names.packagesIdentity
    packagesUri: '${hosts.packages}/${names.packagesContainer}'
    blobServiceUri: hosts.blobs
    telemetryName: names.telemetry
    zoneRedundant: zoneRedundant
    updateStrategy: updateStrategy
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    requestsPerInstance: requestsPerInstance
    alwaysReadyInstances: alwaysReadyInstances
    networkName: privateNetwork ? names.network : ''
    bodyLimit: bodyLimit
    settings: {
      CUSTOMERS_STORAGE__tableServiceUri: hosts.tables
      CUSTOMERS_TABLE: names.table
      STORAGE_CONNECT_TIMEOUT: string(storageConnectTimeout)
      STORAGE_READ_TIMEOUT: string(storageReadTimeout)
      STORAGE_BUDGET: string(storageBudget)
      TOKEN_TENANT_ID: tenantId
      TOKEN_AUDIENCE: audience
      TOKEN_AUTHORITY: authority
      ALLOW_GUESTS: string(allowGuests)
      BUSINESS_ACCESS: businessAccess
      FORWARDED_HOSTS: forwardedHosts
      EMAIL_ADDRESS_CHECK: emailAddressCheck
      MAX_CONCURRENT_REQUESTS: string(maxConcurrentRequests)
      BODY_LIMIT: string(bodyLimit)
    }
  }
}

output resourceGroupName string = group.name
output functionAppName string = names.app
output baseUrl string = api.outputs.url
output tableServiceUri string = hosts.tables
