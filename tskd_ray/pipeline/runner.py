"""Doing the nodes of a run's graph, in waves, each once."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.distributed.metrics import RunMetrics, doing
from tskd_ray.distributed.session import session
from tskd_ray.distributed.shared import require_shared_storage
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.execute import ON_GPU, do_node, is_spread, longest_first
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.heartbeat import RunHeartbeat
from tskd_ray.pipeline.nodes import Node
from tskd_ray.pipeline.recorded import data_key, load_recorded, record_data
from tskd_ray.pipeline.run_files import write_plan
from tskd_ray.progress import Progress
from tskd_ray.report.data import StageCost
from tskd_ray.training.select import select


class Runner:
    """A run's graph, and doing its nodes in waves: those whose inputs are there side by side.

    Args:
        config: The whole configuration.
        console: Whom to tell; default: nobody.
        extras: Names of `EXTRAS`: nodes to have in the graph besides.

    Raises:
        InputError: If the storage or the data are not fit; nothing has been done then.
    """

    def __init__(
        self, config: Config, console: Console | None = None, extras: tuple[str, ...] = ()
    ) -> None:
        self.config = config
        self.console = console or Console(mode="quiet")
        self.store = ArtifactStore(config.storage)
        self.store.check_writable()
        self.recorded: Trajectories = load_recorded(config)
        self.graph: Mapping[str, Node] = build_graph(config, data_key(self.recorded), extras)
        self.costs: list[StageCost] = []
        self.done: set[str] = set()
        self.heartbeat: RunHeartbeat | None = None
        self._metrics = RunMetrics(config.name)

    @contextmanager
    def announced(self, nodes: Sequence[Node]) -> Generator[None]:
        """Let the storage tell what this command is to do, then how far it is.

        Enter it before looking for artifacts: `tskd storage gc` leaves those that a plan names.
        """
        if self.heartbeat is not None:
            yield
            return
        write_plan(self.store.storage, self.config.name, self.graph, nodes)
        self.heartbeat = RunHeartbeat(self.store.storage, self.config.name)
        with self.heartbeat, self._metrics, doing(self.config.name):
            yield

    @contextmanager
    def connected(self, nodes: Sequence[Node]) -> Generator[None]:
        """Do what is left of `nodes`, which hold all their inputs; then Ray, for the block.

        Raises:
            InputError: If the hardware or the storage's place are not fit, before any work.
            StageError: If a stage fails; doing it again resumes.
        """
        with self.announced(nodes), session(self.config.compute):
            if self.missing(nodes):
                storage = self.store.storage
                require_shared_storage(storage.root, storage.local, self.config.compute)
            record_data(self.store, self.graph["data"].key, self.recorded)
            self._run(nodes)
            yield

    def check(self, nodes: Sequence[Node]) -> None:
        """Refuse what could only fail, before any work.

        Raises:
            DataError: If selection keeps too few of the recorded episodes.
        """
        if any(node.name == "students-filtered" for node in nodes):
            select(self.recorded, self.config.select)

    def complete(self, nodes: Sequence[Node]) -> None:
        """Do what is left of `nodes`, as `connected`; Ray is started only if something is."""
        with self.announced(nodes):
            if not self.missing(nodes):
                self._run(nodes)
                return
            with self.connected(nodes):
                pass

    def missing(self, nodes: Sequence[Node]) -> bool:
        """Whether anything is left to do."""
        return any(self.store.find(node.key) is None for node in nodes)

    def _run(self, nodes: Sequence[Node]) -> None:
        found = {node.name for node in nodes if self.store.find(node.key) is not None}
        for node in nodes:
            if node.name in found:
                self._note(node, cached=node.name != "data")
        self.done |= found
        left = [node for node in nodes if node.name not in found]
        while left:
            ready = [node for node in left if self.done.issuperset(node.inputs)]
            tasks = [node for node in ready if not is_spread(node, self.config)]
            # Tasks first: side by side they fill the machine; a spread stage has it alone.
            batch = tasks or ready[:1]
            with self.console.stage(_title(batch)):
                if tasks:
                    self._run_tasks(tasks)
                else:
                    self._run_spread(batch[0])
            for node in batch:
                self._note(node, cached=False)
                self.done.add(node.name)
            self._heart.ended(node.name for node in batch)
            self._metrics.ended(node.name for node in batch)
            left = [node for node in left if node.name not in self.done]

    def note_found(self, nodes: Sequence[Node]) -> None:
        """Record what others finished, so that the run's record is whole."""
        noted = {cost.name for cost in self.costs}
        for node in nodes:
            if node.name not in noted:
                self._note(node, cached=True)

    def _run_tasks(self, nodes: Sequence[Node]) -> None:
        run_tasks(
            {
                node.name: Task(
                    function=do_node,
                    arguments={
                        "store": self.store,
                        "config": self.config,
                        "node": node,
                        "inputs": self._inputs(node),
                    },
                    gpu=node.stage in ON_GPU,
                )
                for node in sorted(nodes, key=longest_first)
            },
            self.config.compute,
            progress=self._told,
        )

    def _run_spread(self, node: Node) -> None:
        do_node(
            store=self.store,
            config=self.config,
            node=node,
            inputs=self._inputs(node),
            progress=self._told(node.name),
        )

    def _told(self, name: str) -> Progress:
        told = self._heart.listen(name, self.console.progress(name))
        return self._metrics.listen(name, told)

    @property
    def _heart(self) -> RunHeartbeat:
        assert self.heartbeat is not None, "announced first"
        return self.heartbeat

    def _inputs(self, node: Node) -> dict[str, ArtifactKey]:
        return {name: self.graph[name].key for name in node.inputs}

    def _note(self, node: Node, *, cached: bool) -> None:
        artifact = self.store.find(node.key)
        assert artifact is not None
        self.costs.append(
            StageCost(
                name=node.name,
                wall_seconds=artifact.info.get("wall_seconds", 0.0),
                cpu_seconds=artifact.info.get("cpu_seconds", 0.0),
                rate=artifact.info.get("rate"),
                flop_per_second=artifact.info.get("flop_per_second"),
                cached=cached,
                key=node.key.digest,
            )
        )


def _title(nodes: Sequence[Node]) -> str:
    return ", ".join(node.name for node in nodes)
