// Logs and telemetry, with the saved queries of infra/README.md.
param name string
param location string
param tags object
@description('The identity of the app, which sends the telemetry.')
param principalId string
@description('The most logs per day, in GB; -1 for no limit.')
param dailyQuotaGb int

var metricsPublisher = '3913510d-42f4-4e42-8a64-420c390055eb'
var queries = [
  {
    name: 'request'
    displayName: 'What happened to this request-id'
    text: loadTextContent('queries/request.kql')
  }
  {
    name: 'adds'
    displayName: 'Adds per business per hour'
    text: loadTextContent('queries/adds.kql')
  }
  {
    name: 'tooLong'
    displayName: 'Bodies over the limit of the Functions host'
    text: loadTextContent('queries/too_long.kql')
  }
]

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' = {
  name: 'log-${name}'
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    retentionInDays: 30
    workspaceCapping: { dailyQuotaGb: dailyQuotaGb }
    features: { disableLocalAuth: true }
  }
}

resource saved 'Microsoft.OperationalInsights/workspaces/savedSearches@2025-02-01' = [for query in queries: {
  parent: workspace
  name: query.name
  properties: {
    category: 'Booking customers'
    displayName: query.displayName
    query: query.text
  }
}]

resource telemetry 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-${name}'
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
    DisableLocalAuth: true
  }
}

resource appMayPublish 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(telemetry.id, principalId, metricsPublisher)
  scope: telemetry
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', metricsPublisher)
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

output workspaceId string = workspace.id
output connectionString string = telemetry.properties.ConnectionString
