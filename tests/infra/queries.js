// Reads {"name": "query", …} and prints {"name": ["what is wrong with it", …], …}, as Kusto's own parser says.
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");

const { KustoCode, GlobalState } = globalThis.Kusto.Language;
const queries = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const problems = {};
for (const [name, query] of Object.entries(queries)) {
  const found = KustoCode.ParseAndAnalyze(query, GlobalState.Default).GetDiagnostics();
  problems[name] = Array.from({ length: found.Count }, (_, i) => found.getItem(i).Message);
}
console.log(JSON.stringify(problems));
