// The whole deployment. azd deploys at the scope of the subscription, because it also creates the resource group.
targetScope = 'subscription'

@minLength(1)
@maxLength(64)
@description('The name of the deployment; the names of all resources come from it.')
param environmentName string

@description('A region that has Flex Consumption; az functionapp list-flexconsumption-locations lists them.')
@metadata({ azd: { type: 'location' } })
param location string

@description('The tenant whose tokens are accepted.')
param tenantId string = tenant().tenantId

@minLength(1)
@description('The accepted audiences, separated by commas: the client id that infra/app-registration.sh prints.')
param audience string

@description('The issuer of tokens; other clouds have other authorities.')
param authority string = environment().authentication.loginEndpoint

@description('Accepts the tokens of guests of the tenant, recognised by the claim acct.')
param allowGuests bool = false

@description('The values of X-Forwarded-Host that links may have, separated by commas, ports included.')
param forwardedHosts string = ''

@description('Shows the description of the service and the page to try it, without a token.')
param docs bool = true

@description('The client with which the page signs people in: the client id that infra/app-registration.sh redirect prints.')
param docsClientId string = ''

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

@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS'])
@description('How the customers are replicated; Standard_ZRS survives the loss of a zone, where the region has zones.')
param storageSku string = 'Standard_LRS'

@allowed([512, 2048, 4096])
@description('Memory per instance, in MB.')
param instanceMemoryMB int = 2048

@minValue(40)
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

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-${token}'
    location: location
    tags: tags
  }
}

module packagesIdentity 'identity.bicep' = {
  name: 'packagesIdentity'
  scope: group
  params: {
    name: 'id-packages-${token}'
    location: location
    tags: tags
  }
}

module network 'network.bicep' = if (privateNetwork) {
  name: 'network'
  scope: group
  params: {
    name: 'vnet-${token}'
    location: location
    tags: tags
  }
}

module storage 'storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    name: 'st${token}'
    location: location
    tags: tags
    sku: storageSku
    principalId: identity.outputs.principalId
    privateNetwork: privateNetwork
    logsWorkspaceId: storageLogs ? monitoring.outputs.workspaceId : ''
  }
}

module packages 'packages.bicep' = {
  name: 'packages'
  scope: group
  params: {
    name: 'pk${token}'
    location: location
    tags: tags
    principalId: packagesIdentity.outputs.principalId
    privateNetwork: privateNetwork
  }
}

module endpoints 'endpoints.bicep' = if (privateNetwork) {
  name: 'endpoints'
  scope: group
  params: {
    location: location
    tags: tags
    storageName: storage.outputs.name
    packagesName: packages.outputs.name
    networkId: privateNetwork ? network!.outputs.id : ''
    subnetId: privateNetwork ? network!.outputs.endpointsSubnetId : ''
  }
}

module monitoring 'monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    name: token
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    dailyQuotaGb: logsDailyQuotaGb
  }
}

module alerts 'alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
    storageName: storage.outputs.name
    email: alertEmail
  }
}

module api 'function.bicep' = {
  name: 'api'
  scope: group
  // The app starts at once, and can't without its storage.
  dependsOn: [endpoints]
  params: {
    name: 'func-${token}'
    location: location
    tags: tags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    packagesIdentityId: packagesIdentity.outputs.id
    deploymentContainerUrl: packages.outputs.containerUrl
    hostStorageName: storage.outputs.name
    applicationInsightsConnectionString: monitoring.outputs.connectionString
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    requestsPerInstance: requestsPerInstance
    alwaysReadyInstances: alwaysReadyInstances
    subnetId: privateNetwork ? network!.outputs.appSubnetId : ''
    bodyLimit: bodyLimit
    settings: {
      CUSTOMERS_STORAGE__tableServiceUri: storage.outputs.tableServiceUri
      CUSTOMERS_STORAGE__clientId: identity.outputs.clientId
      CUSTOMERS_TABLE: storage.outputs.tableName
      STORAGE_CONNECT_TIMEOUT: string(storageConnectTimeout)
      STORAGE_READ_TIMEOUT: string(storageReadTimeout)
      STORAGE_BUDGET: string(storageBudget)
      TOKEN_TENANT_ID: tenantId
      TOKEN_AUDIENCE: audience
      TOKEN_AUTHORITY: authority
      ALLOW_GUESTS: string(allowGuests)
      FORWARDED_HOSTS: forwardedHosts
      DOCS: string(docs)
      DOCS_CLIENT_ID: docsClientId
      EMAIL_ADDRESS_CHECK: emailAddressCheck
      MAX_CONCURRENT_REQUESTS: string(maxConcurrentRequests)
      BODY_LIMIT: string(bodyLimit)
    }
  }
}

output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_NAME string = api.outputs.name
output BASE_URL string = api.outputs.url
