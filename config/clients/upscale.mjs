// node upscale.mjs http://127.0.0.1:3000 photo.jpg large.png [API key]

import { openAsBlob } from "node:fs";
import { writeFile } from "node:fs/promises";
import { ComfyProxy } from "./comfy-proxy.mjs";

const [url, photo, output, apiKey] = process.argv.slice(2);
const proxy = new ComfyProxy(url, { apiKey });
const job = await proxy.submit("upscale-image", { image: await openAsBlob(photo), scale: 2 });
for await (const { name, status } of proxy.progress(job.job_id))
  console.log(name, `${status.progress_percentage} %`);
const [picture] = await proxy.results(job.job_id);
await writeFile(output, (await picture.blob()).stream());
