// The job API from JavaScript: an ES module without dependencies, for browsers and Node >= 20.
//
//   const proxy = new ComfyProxy("http://127.0.0.1:3000");
//   const job = await proxy.submit("upscale-image", { image: input.files[0], scale: 2 });
//   for await (const { status } of proxy.progress(job.job_id)) bar.value = status.progress_percentage;
//   const [picture] = await proxy.results(job.job_id);
//   preview.src = URL.createObjectURL(await picture.blob());
//
// A page that the proxy does not serve itself needs its origin in CORS_ORIGINS; upscale.mjs is an
// example for Node. Errors are ComfyProxyError: status, code, message, field, requestId.

const firstPauseMs = 100; // before the first repetition; twice as long each time, up to two seconds
const longer = (ms) => Math.min(2 * ms, 2000);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const jobPath = (jobId) => `/api/jobs/${encodeURIComponent(jobId)}`;
// Not randomUUID, which pages lack that came over plain http from another machine.
const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

export class ComfyProxyError extends Error {
  constructor(status, told = {}) {
    super(told.error ?? `The answer was HTTP ${status}.`);
    const { code = `http_${status}`, details, request_id: requestId } = told;
    Object.assign(this, { status, code, field: details?.field, requestId });
  }
}

export class ComfyProxy {
  // url may have a path. patienceMs: for so long connections that break are tried again;
  // maxWaitMs: for so long one call waits because the proxy says Retry-After.
  constructor(url = "", { apiKey, patienceMs = 20_000, maxWaitMs = 300_000 } = {}) {
    Object.assign(this, { url: url.replace(/\/+$/, ""), apiKey, patienceMs, maxWaitMs });
  }

  // A Blob or File among the parameters is a file. It may be sent twice, and is one job.
  async submit(workflow, parameters = {}, { key = newKey(), signal } = {}) {
    const given = Object.entries(parameters).filter(([, value]) => value != null);
    const headers = { "Idempotency-Key": key };
    let body = new FormData();
    if (given.some(([, value]) => value instanceof Blob)) {
      for (const [name, value] of given) body.append(name, value);
    } else {
      body = JSON.stringify(Object.fromEntries(given));
      headers["Content-Type"] = "application/json";
    }
    const path = `/api/workflows/${encodeURIComponent(workflow)}?mode=async`;
    return (await this.request(path, { method: "POST", headers, body, signal })).json();
  }

  // { name, status } of each event, the last one completed or failed; over broken connections too.
  async *progress(jobId, { previews = false, signal } = {}) {
    const path = `${jobPath(jobId)}/events${previews ? "?previews=true" : ""}`;
    // An EventSource sends no key, and listens to no signal.
    const native = typeof EventSource !== "undefined" && !this.apiKey && !signal;
    for await (const { name, data } of native ? listen(this.url + path) : this.read(path, signal)) {
      const told = JSON.parse(data);
      yield name === "preview" ? { name, preview: told } : { name, status: told };
      if (name === "completed" || name === "failed") return;
    }
  }

  // Server-Sent Events by fetch, as Node has no EventSource.
  async *read(path, signal) {
    for (let lastId = "", pauseMs = firstPauseMs, spentMs = 0; ; pauseMs = longer(pauseMs)) {
      const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
      const answer = await this.request(path, { headers, signal });
      if (answer.status === 204) return;
      try {
        for await (const event of readEvents(answer.body)) {
          [lastId, pauseMs, spentMs] = [event.id || lastId, firstPauseMs, 0];
          yield event;
        }
      } catch (error) {
        if (signal?.aborted) throw error;
      }
      if ((spentMs += pauseMs) > this.patienceMs) throw new Error("The events break off again and again.");
      await sleep(pauseMs);
    }
  }

  status = async (jobId, query = "") => (await this.request(`${jobPath(jobId)}/status${query}`)).json();

  // What the job has made, once it has ended: each with name, type, media_type and blob().
  async results(jobId) {
    let status;
    do status = await this.status(jobId, "?wait=60");
    while (!["completed", "failed"].includes(status.status));
    if (status.error) throw new ComfyProxyError(502, { ...status.error, error: status.error.message });
    return status.results.map((one, number) => ({
      ...one,
      blob: async () => (await this.request(`${jobPath(jobId)}/result/${number}`)).blob(),
    }));
  }

  cancel = async (jobId) => void (await this.request(jobPath(jobId), { method: "DELETE" }));
  workflows = async () => (await (await this.request("/api/workflows")).json()).workflows;

  async request(path, { headers = {}, ...options } = {}) {
    const all = { ...headers, ...(this.apiKey && { "X-API-Key": this.apiKey }) };
    for (let pauseMs = firstPauseMs, spentMs = 0, waitedMs = 0; ; ) {
      const answer = await fetch(this.url + path, { ...options, headers: all }).catch((error) => error);
      if (!(answer instanceof Response)) {
        if (options.signal?.aborted || (spentMs += pauseMs) > this.patienceMs) throw answer;
        await sleep(pauseMs);
        pauseMs = longer(pauseMs);
        continue;
      }
      if (answer.ok) return answer;
      const told = await answer.json().catch(() => ({}));
      const waitMs = 1000 * (answer.headers.get("Retry-After") ?? NaN);
      const full = [429, 503].includes(answer.status) && told.code !== "workflow_unavailable";
      if (!full || !((waitedMs += waitMs) <= this.maxWaitMs)) throw new ComfyProxyError(answer.status, told);
      await sleep(waitMs);
    }
  }
}

async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let text = "", piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const blocks = (text + piece.value).split("\n\n");
      text = blocks.pop(); // an event that is not whole counts as none
      for (const block of blocks) {
        const line = (field) => block.match(new RegExp(`^${field}: (.*)$`, "m"))?.[1];
        if (line("data")) yield { name: line("event"), id: line("id"), data: line("data") };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever listens has heard enough
  }
}

async function* listen(url) {
  const source = new EventSource(url); // it comes back by itself, with Last-Event-ID
  const [heard, names] = [[], ["status", "progress", "preview", "completed", "failed"]];
  let wake = () => {};
  const hear = (event) => (heard.push(event), wake());
  for (const name of names) source.addEventListener(name, hear);
  source.onerror = () => source.readyState === EventSource.CLOSED && hear(null);
  try {
    for (; ; await new Promise((done) => (wake = done)))
      for (let event = heard.shift(); event !== undefined; event = heard.shift())
        if (event) yield { name: event.type, data: event.data };
        else throw new Error("The proxy refuses the job's events; it may have forgotten the job.");
  } finally {
    source.close();
  }
}
