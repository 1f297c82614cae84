// One job by @comfyorg/sdk, as its documentation has it: upload, submit, follow, download.
//
//     COMFY_BASE_URL=… node run_sdk.mjs WORKFLOW PICTURE RESULT
//
// Prints one JSON object: the job's id, its status, the statuses that its events told before, and
// the name of its output.
import { Comfy } from "@comfyorg/sdk";

const [workflowFile, pictureFile, resultFile] = process.argv.slice(2);
const client = new Comfy();
const workflow = await client.workflows.fromFile(workflowFile);
workflow.setInput("1", "image", client.assets.fromFile(pictureFile));
const job = await client.submit(workflow);
const told = [];
for await (const event of job.events()) {
  if (event.kind === "statusChange") told.push(event.status);
}
await job.result();
const [output] = job.outputs;
await output.toFile(resultFile);
console.log(JSON.stringify({ id: job.id, status: job.status, told, output: output.name }));
