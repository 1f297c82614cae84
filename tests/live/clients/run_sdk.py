"""One job by comfy-sdk, as its documentation has it: upload, submit, follow, download.

    COMFY_BASE_URL=… python run_sdk.py WORKFLOW PICTURE RESULT

Prints one JSON object: the job's id, its status, the statuses that its events told before, and
the name of its output.
"""

import json
import sys

from comfy_sdk import Comfy, StatusChange

workflow_file, picture_file, result_file = sys.argv[1:]
with Comfy() as client:
    workflow = client.workflows.from_file(workflow_file)
    workflow.set_input("1", "image", client.assets.from_file(picture_file))
    job = client.submit(workflow)
    told = [event.status for event in job.events() if isinstance(event, StatusChange)]
    job.result()
    (output,) = job.outputs
    output.to_file(result_file)
    print(json.dumps({"id": job.id, "status": job.status, "told": told, "output": output.name}))
