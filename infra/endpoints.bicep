// The private endpoints of the storage accounts, one for each service that is used, and their DNS names.
import { Tags } from 'types.bicep'

param location string
param tags Tags
param storageName string
param packagesName string
param networkName string

var services = ['blob', 'table']
// Each with the index of its service.
var targets = [
  { account: storageName, service: 'blob', zone: 0 }
  { account: storageName, service: 'table', zone: 1 }
  { account: packagesName, service: 'blob', zone: 0 }
]

resource accounts 'Microsoft.Storage/storageAccounts@2025-01-01' existing = [
  for target in targets: {
    name: target.account
  }
]

resource network 'Microsoft.Network/virtualNetworks@2025-07-01' existing = {
  name: networkName

  resource subnet 'subnets' existing = {
    name: 'endpoints'
  }
}

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [
  for service in services: {
    name: 'privatelink.${service}.${environment().suffixes.storage}'
    location: 'global'
    tags: tags
  }
]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [
  for (service, i) in services: {
    parent: zones[i]
    name: service
    location: 'global'
    tags: tags
    properties: {
      registrationEnabled: false
      virtualNetwork: { id: network.id }
    }
  }
]

resource endpoints 'Microsoft.Network/privateEndpoints@2025-07-01' = [
  for (target, i) in targets: {
    name: 'pe-${target.account}-${target.service}'
    location: location
    tags: tags
    properties: {
      subnet: { id: network::subnet.id }
      privateLinkServiceConnections: [
        {
          name: target.service
          properties: { privateLinkServiceId: accounts[i].id, groupIds: [target.service] }
        }
      ]
    }
  }
]

resource names 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2025-07-01' = [
  for (target, i) in targets: {
    parent: endpoints[i]
    name: 'default'
    properties: {
      privateDnsZoneConfigs: [
        {
          name: target.service
          properties: { privateDnsZoneId: zones[target.zone].id }
        }
      ]
    }
  }
]
