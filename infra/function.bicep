// The Function App, on Flex Consumption.
param name string
param location string
param tags object
param identityId string
param identityClientId string
@description('The identity with which the platform stores and reads the package.')
param packagesIdentityId string
param deploymentContainerUrl string
param hostStorageName string
param applicationInsightsConnectionString string
param instanceMemoryMB int
param maximumInstanceCount int
param requestsPerInstance int
param alwaysReadyInstances int
@description('The subnet that the app joins; none if this is empty.')
param subnetId string
@description('The longest body that the app accepts, in bytes.')
param bodyLimit int
@description('The settings of the app itself; customers/settings.py reads them.')
param settings object

var hostSettings = {
  AzureWebJobsStorage__accountName: hostStorageName
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  // The host holds bodies in memory before the app sees them, and refuses longer ones with an empty 500: so it must
  // refuse them well above the app's own limit, whose 413 says what is wrong, and well below an instance's memory.
  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(4 * bodyLimit)
  APPLICATIONINSIGHTS_CONNECTION_STRING: applicationInsightsConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: 'plan-${name}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true } // Linux
}

resource app 'Microsoft.Web/sites@2024-11-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'api' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {}, '${packagesIdentityId}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      minTlsVersion: '1.2'
      appSettings: [for setting in items(union(settings, hostSettings)): {
        name: setting.key
        value: setting.value
      }]
    }
    functionAppConfig: {
      runtime: { name: 'python', version: '3.13' }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: deploymentContainerUrl
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: packagesIdentityId
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        triggers: { http: { perInstanceConcurrency: requestsPerInstance } }
        // All HTTP functions of an app scale together, as the group "http".
        alwaysReady: alwaysReadyInstances > 0 ? [{ name: 'http', instanceCount: alwaysReadyInstances }] : []
      }
    }
  }
}

// No user name and password. Flex Consumption has no FTP, and rejects the setting ftpsState.
resource ftp 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-11-01' = {
  parent: app
  name: 'ftp'
  properties: { allow: false }
}

resource scm 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-11-01' = {
  parent: app
  name: 'scm'
  properties: { allow: false }
}

output name string = app.name
output url string = 'https://${app.properties.defaultHostName}'
