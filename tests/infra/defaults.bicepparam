// Nothing but what must be given.
using '../../infra/main.bicep'

param environmentName = 'my-customers'
param location = 'westeurope'
param audience = '0e6fdb1f-8a1c-4a59-8b8e-0a3d4d1a3c55'
