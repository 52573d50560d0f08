// The Function App, on Flex Consumption.
import { Settings, Tags } from 'types.bicep'

param name string
param location string
param tags Tags
@description('The identity of the app.')
param identityName string
@description('The identity with which the platform stores and reads the package.')
param packagesIdentityName string
@description('The container for the package.')
param packagesUri string
@description('The storage of the Functions host.')
param blobServiceUri string
param telemetryName string
param zoneRedundant bool
@description('How running instances are replaced: RollingUpdate or Recreate.')
param updateStrategy string
param instanceMemoryMB int
param maximumInstanceCount int
param requestsPerInstance int
param alwaysReadyInstances int
@description('The network that the app joins; none if this is empty.')
param networkName string
@description('The longest body that the app accepts, in bytes.')
param bodyLimit int
@description('The settings of the app itself; customers/settings.py reads them.')
param settings Settings

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: identityName
}

resource packagesIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: packagesIdentityName
}

resource telemetry 'Microsoft.Insights/components@2020-02-02' existing = {
  name: telemetryName
}

resource network 'Microsoft.Network/virtualNetworks@2025-07-01' existing = if (!empty(networkName)) {
  name: networkName

  resource subnet 'subnets' existing = {
    name: 'app'
  }
}

var hostSettings = {
  // Not AzureWebJobsStorage__accountName, with which the host also tries tables, that it may not use.
  AzureWebJobsStorage__blobServiceUri: blobServiceUri
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identity.properties.clientId
  // The host holds bodies in memory before the app sees them, and refuses longer ones with an empty 500: so it must
  // refuse them well above the app's own limit, whose 413 says what is wrong, and well below an instance's memory.
  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(4 * bodyLimit)
  CUSTOMERS_STORAGE__clientId: identity.properties.clientId
  APPLICATIONINSIGHTS_CONNECTION_STRING: telemetry.properties.ConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identity.properties.clientId};Authorization=AAD'
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: 'plan-${name}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: {
    reserved: true // Linux
    zoneRedundant: zoneRedundant
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'api' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identity.id}': {}, '${packagesIdentity.id}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    virtualNetworkSubnetId: empty(networkName) ? null : network::subnet.id
    siteConfig: {
      minTlsVersion: '1.2'
      appSettings: map(items(union(settings, hostSettings)), setting => {
        name: setting.key
        value: setting.value
      })
    }
    functionAppConfig: {
      runtime: { name: 'python', version: '3.13' }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: packagesUri
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: packagesIdentity.id
          }
        }
      }
      #disable-next-line BCP037 // Azure takes it from version 2023-12-01 on, but no version's published types have it.
      siteUpdateStrategy: { type: updateStrategy }
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
resource ftp 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'ftp'
  properties: { allow: false }
}

resource scm 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'scm'
  properties: { allow: false }
}

output url string = 'https://${app.properties.defaultHostName}'
