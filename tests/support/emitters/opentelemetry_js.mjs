// OpenTelemetry for JavaScript by hand, in OTLP's JSON.
import { trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { NodeSDK } from "@opentelemetry/sdk-node";

const sdk = new NodeSDK({ traceExporter: new OTLPTraceExporter(), instrumentations: [] });
sdk.start();
const tracer = trace.getTracer("by.hand", "1.0");
const parts = (role, content) => JSON.stringify([{ role, parts: [{ type: "text", content }] }]);
const asked = parts("user", "How is the weather in Paris?");
const said = parts("assistant", "It is sunny.");
tracer.startActiveSpan("invoke_agent forecaster", (agent) => {
  agent.setAttributes({ "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "forecaster" });
  agent.setAttributes({ "gen_ai.input.messages": asked, "gen_ai.output.messages": said });
  tracer.startActiveSpan("execute_tool get_weather", (tool) => {
    tool.setAttributes({ "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "get_weather" });
    tool.setAttributes({ "gen_ai.tool.call.arguments": '{"city": "Paris"}', "gen_ai.tool.call.result": "sunny" });
    tool.end();
  });
  tracer.startActiveSpan("chat gpt-4o", (chat) => {
    chat.setAttributes({ "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o" });
    chat.setAttributes({ "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 7 });
    chat.setAttributes({ "gen_ai.input.messages": asked, "gen_ai.output.messages": said });
    chat.end();
  });
  agent.end();
});
await sdk.shutdown();
