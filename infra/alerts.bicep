// The alerts.
import { Tags } from 'types.bicep'

param location string
param tags Tags
param workspaceName string
param storageName string
@description('Who gets the alerts; nobody if this is empty.')
param email string
@description('More failed requests than this in five minutes raise an alert.')
param failedRequests int = 0
@description('A 95th percentile of the duration above this, in milliseconds, raises an alert.')
param slowMilliseconds int = 2000

var rules = [
  {
    name: 'failed-requests'
    description: 'Requests failed with a 5xx status, or without any.'
    query: loadTextContent('queries/failed.kql')
    measure: 'failed'
    threshold: failedRequests
    severity: 1
  }
  {
    name: 'slow-requests'
    description: 'Requests are slow: the 95th percentile of the duration.'
    query: loadTextContent('queries/slow.kql')
    measure: 'p95'
    threshold: slowMilliseconds
    severity: 2
  }
]
var actionGroupIds = empty(email) ? [] : [people.id]

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' existing = {
  name: workspaceName
}

resource storage 'Microsoft.Storage/storageAccounts@2025-01-01' existing = {
  name: storageName
}

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'people'
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'customers'
    emailReceivers: [{ name: 'email', emailAddress: email, useCommonAlertSchema: true }]
  }
}

resource logAlerts 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = [
  for rule in rules: {
    name: rule.name
    location: location
    tags: tags
    properties: {
      displayName: rule.name
      description: rule.description
      severity: rule.severity
      enabled: true
      scopes: [workspace.id]
      evaluationFrequency: 'PT5M'
      windowSize: 'PT5M'
      autoMitigate: true
      // The tables come into being with the first telemetry, after the deployment.
      skipQueryValidation: true
      criteria: {
        allOf: [
          {
            query: rule.query
            metricMeasureColumn: rule.measure
            timeAggregation: 'Maximum'
            operator: 'GreaterThan'
            threshold: rule.threshold
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroups: actionGroupIds }
    }
  }
]

resource throttling 'Microsoft.Insights/metricAlerts@2026-01-01' = {
  name: 'storage-throttling'
  location: 'global'
  tags: tags
  properties: {
    description: 'Table Storage refuses requests: a partition or the account is at its limit.'
    severity: 2
    enabled: true
    scopes: ['${storage.id}/tableServices/default']
    evaluationFrequency: 'PT5M'
    windowSize: 'PT5M'
    autoMitigate: true
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          criterionType: 'StaticThresholdCriterion'
          name: 'throttled'
          metricNamespace: 'Microsoft.Storage/storageAccounts/tableServices'
          metricName: 'Transactions'
          dimensions: [
            {
              name: 'ResponseType'
              operator: 'Include'
              values: [
                'ClientThrottlingError'
                'ClientAccountRequestThrottlingError'
                'ClientAccountBandwidthThrottlingError'
                'ServerBusyError'
                'SuccessWithThrottling'
              ]
            }
          ]
          timeAggregation: 'Total'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    actions: [for id in actionGroupIds: { actionGroupId: id }]
  }
}
