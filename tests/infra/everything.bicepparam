// Everything that is optional, and the other choice where there is one.
using '../../infra/main.bicep'

param environmentName = 'my-customers'
param location = 'swedencentral'
param tenantId = '7d3b1c52-4f0e-4b8a-9c61-0f2a5e8d9b34'
param audience = '0e6fdb1f-8a1c-4a59-8b8e-0a3d4d1a3c55,1b2f7c0a-93d4-4f6e-8a57-64c1f0d2e9b8'
param authority = 'https://login.microsoftonline.us'
param allowGuests = true
param businessAccess = 'tenant'
param forwardedHosts = 'customers.contoso.com,customers.contoso.com:8443'
param emailAddressCheck = 'smtp'
param maxConcurrentRequests = 200
param bodyLimit = 65536
param storageConnectTimeout = 1
param storageReadTimeout = 3
param storageBudget = 8
param zoneRedundant = true
param storageSku = 'Standard_GZRS'
param updateStrategy = 'Recreate'
param instanceMemoryMB = 512
param maximumInstanceCount = 1
param requestsPerInstance = 32
param alwaysReadyInstances = 1
param privateNetwork = true
param logsDailyQuotaGb = 5
param storageLogs = true
param alertEmail = 'operations@contoso.com'
