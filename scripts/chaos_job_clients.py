"""Clients of the job API, and one that uploads."""

from __future__ import annotations

import asyncio
import time

import aiohttp
from chaos_clients import Client, PollingClient
from chaos_records import Work, fault_of, png


class JobClient(PollingClient):
    """Posts jobs and asks for their status until they end; fetches each result."""

    async def post(self) -> None:
        colour = self.records.new_colour()
        work = Work("job", self.name, colour, time.time(), polled=True)
        form = aiohttp.FormData()
        path = "/api/upscale-image"
        if self.dice.random() < 0.6:
            path = "/api/workflows/timed"
            form.add_field("seconds", str(round(self.dice.uniform(0.1, 1.5), 2)))
            form.add_field("salt", str(colour))
        form.add_field("imageFile", png(colour), filename="p.png", content_type="image/png")
        status, answer = await self.http.ask_json("POST", path, data=form)
        self.records.works.append(work)
        if status == 202:
            work.id, work.accepted = answer["job_id"], time.time()
            self.works.append(work)
        else:
            self.refused("job", f"{status} {answer}")

    async def _poll(self, work: Work) -> None:
        status, job = await self.http.ask_json("GET", f"/api/jobs/{work.id}/status")
        if status != 200:
            self.strange(f"job {work.id}: {status} {job}")
            work.unseen += status == 404
        elif job["status"] == "completed":
            await self._fetch(work)
        elif job["status"] not in ("pending", "processing"):
            work.failure = f"{job['status']}: {job['error']}"
            work.ended = time.time()

    async def _fetch(self, work: Work) -> None:
        status, data = await self.http.ask("GET", f"/api/jobs/{work.id}/result")
        work.ended = time.time()
        work.picture_seen = True
        work.wrong = fault_of(data, work.colour) if status == 200 else f"result: {status}"


class UploadClient(Client):
    """Uploads pictures under new names and, by turns, over one old name."""

    polls = True

    async def run(self) -> None:
        """Until it is cancelled; one upload that hangs holds up no other."""
        while not self.stopping:
            task = asyncio.create_task(self._upload())
            self.looking.add(task)
            task.add_done_callback(self.looking.discard)
            await asyncio.sleep(self.dice.uniform(0.5, 1.5))

    async def _upload(self) -> None:
        colour = self.records.new_colour()
        if self.dice.random() < 0.5:
            await self.upload(f"up-{colour}.png", colour)
        else:
            await self.upload("same.png", colour, overwrite="true")
