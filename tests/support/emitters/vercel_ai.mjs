// The Vercel AI SDK with a model of its own.
import { NodeSDK } from "@opentelemetry/sdk-node";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { generateText, stepCountIs, tool } from "ai";
import { MockLanguageModelV2 } from "ai/test";
import { z } from "zod";

const sdk = new NodeSDK({ traceExporter: new OTLPTraceExporter(), instrumentations: [] });
sdk.start();

const usage = { inputTokens: 11, outputTokens: 7, totalTokens: 18 };
const answers = [
  { finishReason: "tool-calls", content: [{ type: "tool-call", toolCallId: "c1", toolName: "get_weather", input: '{"city":"Paris"}' }] },
  { finishReason: "stop", content: [{ type: "text", text: "It is sunny." }] },
];
const model = new MockLanguageModelV2({
  modelId: "gpt-4o",
  doGenerate: async () => ({ ...answers.shift(), usage, warnings: [] }),
});
await generateText({
  model,
  prompt: "How is the weather in Paris?",
  stopWhen: stepCountIs(3),
  tools: {
    get_weather: tool({ inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => `sunny in ${city}` }),
  },
  experimental_telemetry: { isEnabled: true, functionId: "forecaster", metadata: { userId: "ann" } },
});
await sdk.shutdown();
