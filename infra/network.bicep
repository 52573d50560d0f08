// The network of a private deployment: one subnet for the app, one for the endpoints of storage.
import { Tags } from 'types.bicep'

param name string
param location string
param tags Tags

resource network 'Microsoft.Network/virtualNetworks@2025-07-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: { addressPrefixes: ['10.0.0.0/24'] }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: '10.0.0.0/25'
          // What Flex Consumption joins a network as.
          delegations: [{ name: 'functions', properties: { serviceName: 'Microsoft.App/environments' } }]
        }
      }
      {
        name: 'endpoints'
        properties: { addressPrefix: '10.0.0.128/27' }
      }
    ]
  }
}
