// The workbook: how the service goes. It shows the queries of this folder, and what storage measures itself.
import { Tags } from 'types.bicep'

param location string
param tags Tags
param workspaceName string
param storageName string

// Where a query of queries/request.kql has the request-id.
var noRequest = '00000000-0000-0000-0000-000000000000'
var charts = [
  {
    name: 'requests'
    title: 'Requests and failures by operation; durations in milliseconds'
    query: loadTextContent('queries/requests.kql')
    visualization: 'table'
  }
  {
    name: 'failed'
    title: 'Requests that failed with a 5xx status, or without any'
    query: loadTextContent('queries/failed.kql')
    visualization: 'timechart'
  }
  {
    name: 'slow'
    title: 'Durations: median, 95th and 99th percentile, in milliseconds'
    query: loadTextContent('queries/slow.kql')
    visualization: 'timechart'
  }
  {
    name: 'adds'
    title: 'Customers added, by business and hour'
    query: loadTextContent('queries/adds.kql')
    visualization: 'table'
  }
  {
    name: 'cold-starts'
    title: 'Cold starts: new instances, and how long the first request of each took, in milliseconds'
    query: loadTextContent('queries/cold_starts.kql')
    visualization: 'table'
  }
  {
    name: 'too-long'
    title: 'Bodies over the limit of the Functions host'
    query: loadTextContent('queries/too_long.kql')
    visualization: 'table'
  }
  {
    name: 'request'
    title: 'What happened to the request-id above'
    query: replace(loadTextContent('queries/request.kql'), noRequest, '{RequestId}')
    visualization: 'table'
  }
]

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' existing = {
  name: workspaceName
}

resource storage 'Microsoft.Storage/storageAccounts@2025-01-01' existing = {
  name: storageName
}

var parameters = {
  type: 9
  name: 'parameters'
  content: {
    version: 'KqlParameterItem/1.0'
    style: 'pills'
    parameters: [
      {
        id: guid('TimeRange')
        version: 'KqlParameterItem/1.0'
        name: 'TimeRange'
        label: 'Time range'
        type: 4
        isRequired: true
        value: { durationMs: 86400000 }
        typeSettings: {
          selectableValues: map([1, 4, 24, 72, 168, 720], hours => { durationMs: hours * 3600000 })
          allowCustom: true
        }
      }
      {
        id: guid('RequestId')
        version: 'KqlParameterItem/1.0'
        name: 'RequestId'
        label: 'request-id'
        type: 1
        value: noRequest
      }
    ]
  }
}

// Of the table service: every operation, by how it ended; throttled ones end in "…ThrottlingError" or "ServerBusyError".
var throttling = {
  type: 10
  name: 'throttling'
  content: {
    version: 'MetricsItem/2.0'
    chartId: guid('throttling')
    size: 0
    chartType: 2
    title: 'Storage throttling: table operations by how they ended'
    resourceType: 'microsoft.storage/storageaccounts'
    metricScope: 0
    resourceIds: [storage.id]
    timeContextFromParameter: 'TimeRange'
    metrics: [
      {
        namespace: 'microsoft.storage/storageaccounts/tableservices'
        metric: 'microsoft.storage/storageaccounts/tableservices-Transaction-Transactions'
        aggregation: 1
        splitBy: 'ResponseType'
      }
    ]
    gridSettings: { rowLimit: 10000 }
  }
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, 'booking-customers')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Booking customers'
    category: 'workbook'
    sourceId: workspace.id
    serializedData: string({
      version: 'Notebook/1.0'
      items: [
        parameters
        ...map(charts, chart => {
          type: 3
          name: chart.name
          content: {
            version: 'KqlItem/1.0'
            query: chart.query
            size: 0
            title: chart.title
            timeContextFromParameter: 'TimeRange'
            queryType: 0
            resourceType: 'microsoft.operationalinsights/workspaces'
            crossComponentResources: [workspace.id]
            visualization: chart.visualization
          }
        })
        throttling
      ]
      '$schema': 'https://github.com/Microsoft/Application-Insights-Workbooks/blob/master/schema/workbook.json'
    })
  }
}
