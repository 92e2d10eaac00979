"""Each part of the campaign as a section of the report."""
# ruff: noqa: E501  # rows of Markdown tables do not break

from itertools import pairwise

import numpy as np

from tests.faults.damage import run_damage
from tests.faults.disk import DISKS, run_full_disk
from tests.faults.kills import LEAST_FSC_BELOW_HALF, LEAST_FSC_OF_VISITED, MOST_LOST_OF_TRUTH, run_kills
from tests.faults.memory import run_memory
from tests.faults.peers import run_peers
from tests.faults.soak import STORE_MEGABYTES, run_soak
from tests.faults.strangers import run_strangers
from tests.faults.subscribers import run_subscribers

# between two samples, which are two seconds apart
_STANDSTILL_SECONDS = 30.0


def _say(text):
    print(f"   {text}", flush=True)


def kills(folder, options):
    """kill -9 at random moments."""
    r = run_kills(folder / "plain", options.kills, seed=options.seed, minutes=options.kill_minutes, say=_say)
    victims = ", ".join(f"{name} {n}" for name, n in sorted(r.kills.items()))
    lowest = min(r.lowest_fsc.values())
    same = all(r.bitwise.values())
    return f"""## kill -9

{sum(r.kills.values())} times one process, or all three at once, was killed at a random moment of one session of {r.particles}
particles in {r.batches} batches: in start-up, while folding, while idle; {r.moments["while a checkpoint was being written"]} times while a checkpoint was being written. Visits in
quiet moments were off in it: when it is quiet depends on the kills, and the map on the visits.

| | |
| --- | --- |
| killed | {victims} |
| supervisor started again (by us, as systemd would) | {r.supervisor_restarts} |
| the supervisor gave up and was started again | {r.gave_up} |
| worker resumed from a checkpoint | {r.resumed} |
| batches sent again after a Hello | {r.requeued} |
| batches of which the acknowledgement had been lost, told by a Hello | {r.told_at_hello} |
| particles written, folded, each exactly once | {r.particles}, {r.particles}, yes (ledger, checkpoint, raw pose table and map agree) |
| the session folded again without a fault: map, half maps and poses bit for bit the same | {"yes" if same else "no"} |
| lowest FSC of any shell of the three maps | {lowest:.7f} |
"""


def visits(folder, options):
    """kill -9 while particles are visited again."""
    minutes = options.kill_minutes and options.kill_minutes / 4
    r = run_kills(
        folder,
        max(1, options.kills // 4),
        seed=options.seed + 1,
        micrographs_a_kill=2,
        visits=True,
        minutes=minutes,
        say=_say,
    )
    victims = ", ".join(f"{name} {n}" for name, n in sorted(r.kills.items()))
    return f"""## kill -9 among visits in quiet moments

{sum(r.kills.values())} kills ({victims}; {r.moments["while a checkpoint was being written"]} while a checkpoint was being written, {r.moments["while particles were visited"]} while particles were visited) of a session that settles early and visits kept particles
again whenever nothing new waits. The worker resumed from a checkpoint {r.resumed} times. All {r.particles} particles are in the map once. The map counts {r.visits} image
visits, and as many poses stand in the table: {r.visits - r.particles} of particles that were visited again.

The session was folded again without a fault, and both ended their sweeps. When it is quiet, and so which sums are made, depends on the kills: the maps are {"" if r.bitwise["volume"] else "not "}the
same to the bit, of {r.image_visits[0]} and {r.image_visits[1]} visits, at {r.resolution_angstrom[0]:.1f} and {r.resolution_angstrom[1]:.1f} A. Turned onto each other, if need be, their lowest FSC of any shell up to there (13 at most) is {r.lowest_fsc["volume"]:.4f} (required: over
{LEAST_FSC_OF_VISITED}), and up to half that frequency {r.lowest_fsc["below half"]:.4f} (over {LEAST_FSC_BELOW_HALF}). Each visit draws its poses anew: where noise weighs as much as the map, other visits give another map.
With the map that the particles were made from it is {r.lowest_fsc_to_truth[0]:.4f} after the kills and {r.lowest_fsc_to_truth[1]:.4f} without (required: at no shell more than {MOST_LOST_OF_TRUTH} less).
"""


def disk(folder, options):
    """Full disks."""
    rows = []
    for which in DISKS:
        r = run_full_disk(folder / which, which, seed=options.seed, full_seconds=10.0)
        rows.append(
            f"| {which} | {', '.join(f'`{word}`' for word in r.said)} | {r.full_seconds:.0f} s | {r.folded_before} | "
            f"{r.particles} |"
        )
        _say(rows[-1])
    return (
        "## Disk full\n\n"
        "The disk (48 MiB of tmpfs) of the ledger, of the worker (checkpoints, pose table, maps) or of both is filled to the "
        "last byte\nin mid-session, while particles go on coming, and freed later; or there is room for all but the store of "
        "particles from the start.\nNo process ends; the log names the file and the remedy; all particles are folded exactly "
        "once in the end. The store takes at most half of what is\nfree, keeps what it has room for, and grows again when "
        "there is more.\n\n"
        "| disk of | said | full for | folded before | in the end |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )


def damage(folder, options):
    """Flipped bits and cut files."""
    r = run_damage(folder, flips=options.flips, cuts=options.cuts, seed=options.seed)
    return f"""## Saved state damaged

| | |
| --- | --- |
| bits of the newest checkpoint, `CURRENT` and the pose tables flipped, one at a time | {r.flips}, of these {r.flips_of_manifest} in the manifest, {r.flips_of_current} in `CURRENT`, {r.flips_of_tables} in the tables |
| found, and the newest checkpoint used for which all is whole, if there is one | {r.flips} |
| ledger cut at a random length or at a page | {r.cuts} |
| found, refused with a remedy, and left as it was | {r.cuts} |
| daemon on a cut ledger | ends with exit code 3, for good, `ledger_corrupt` |
| with the ledger back, on an altered checkpoint | goes on from the one before; {r.particles} particles exactly once |
"""


def peers(folder, options):
    """Hostile peers."""
    r = run_peers(folder, seconds=options.peer_seconds, seed=options.seed)
    kinds = {}
    for name, n in r.attacks.items():
        socket, kind = name.split(": ")
        kinds.setdefault(kind, {})[socket] = n
    rows = "\n".join(
        f"| {kind} | {' | '.join(str(n.get(s, '-')) for s in ('feed', 'events', 'volumes', 'snapshots', 'control', 'monitor'))} |"
        for kind, n in sorted(kinds.items())
    )
    grown = ", ".join(f"{name} {n / 2**20:.1f} MiB" for name, n in r.memory_growth_bytes.items())
    fds = ", ".join(f"{n} {r.descriptors_before[n]} and {r.descriptors_after[n]}" for n in r.descriptors_before)
    return f"""## Hostile peers

{sum(r.attacks.values())} connections in {r.seconds:.0f} s to the sockets of a daemon at work; some below ZeroMQ (or HTTP), some within it.

| kind | feed | events | volumes | snapshots | control | HTTP |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

No process ended or was started again. Memory grew: {grown}. Descriptors before and after: {fds}.
`streamrecon_ingest_messages_dropped_total` counted {r.dropped:.0f}. All {r.particles} particles were folded exactly once.
"""


def strangers(folder, options):
    """Who does not belong."""
    r = run_strangers(folder, seed=options.seed)
    kinds = list(dict.fromkeys(who for _, who in r.knocked))
    doors = list(dict.fromkeys(door for door, _ in r.knocked))
    rows = "\n".join(
        f"| {who} | {' | '.join(str(r.knocked.get((door, who), 'comes in')) for door in doors)} |" for who in kinds
    )
    counted = ", ".join(f"{reason} {n}" for reason, n in sorted(r.counted.items()) if n)
    logged = ", ".join(f"{reason} {n}" for reason, n in sorted(r.logged.items()) if n)
    return f"""## Strangers, and commands said again

A daemon with keys at work, and who knocked at its doors with what so often. None of them was sent a byte, and each was counted.

| | {" | ".join(doors)} |
| --- |{" --- |" * len(doors)}
{rows}

A command of the operator's was said again, byte for byte, on its connection, on another one, to the worker that came after a `kill -9`,
and with a ticket that was another connection's: {r.replays} times in all, of which {r.replays_counted} were counted as replayed and none was obeyed.

Connections counted as refused: {counted} (who hangs up first on plaintext is chance; ZeroMQ dials again by itself). Lines of the log: {logged} (each key once at
each door, all else once a minute). All {r.particles} particles were folded exactly once.
"""


def subscribers(folder, options):
    """Fifty subscribers."""
    r = run_subscribers(folder, seed=options.seed)
    turns = ", ".join(f"{1000 * a[0]:.2f} / {1000 * w[0]:.2f}" for a, w in zip(r.alone, r.watched, strict=False))
    rows = "\n".join(
        f"| {what} | {_middle(r.ratios(which))} | {_middle(r.noise(which))} |"
        for which, what in enumerate(("processor time of the worker, all threads", "time by the clock"))
    )
    return f"""## Fifty subscribers, half of them stalled

{r.subscribers} subscribers to events and volumes, of which every second one never reads, by turns with none, within one run; each turn is held against the
two beside it. Maps go out every 200 particles.

| a particle | {len(r.watched)} turns with subscribers, by those without: median and range | noise: turns without, by those without |
| --- | --- | --- |
{rows}

ms of processor a particle, without / with, turn by turn: {turns}. The {r.subscribers // 2} that read were sent {r.read} messages.
"""


def _middle(values):
    return f"{np.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def soak(folder, options):
    """A long stream."""
    r = run_soak(
        folder, seconds=60 * options.soak_minutes, seed=options.seed, say=_say, series=options.results / "soak.json"
    )
    return soak_text(r)


def soak_text(r):
    """The section of a `SoakReport`."""
    slopes = []
    for name in r.own_mib:
        slope, error = r.slope_mib_an_hour(name)
        counts = r.descriptors[name]
        slopes.append(
            f"| {name} | {slope:+.2f} ± {error:.2f} | {r.bytes_a_stack(name):+.0f} | {min(counts[len(counts) // 5 :])} to "
            f"{max(counts[len(counts) // 5 :])} | {r.resident_mib[name][-1]:.0f} |"
        )
    lag = sorted(r.lag_seconds)
    disk = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in sorted(r.disk_mib.items()) if mib >= 1)
    return f"""## Soak

{r.seconds / 60:.0f} minutes of stream, as fast as one thread of the engine folds it. Other programs used {r.others_share:.0%} of the machine's processors
meanwhile. {r.particles} particles in {r.stacks} stacks, {r.folded[-1] / r.at[-1]:.0f} a second; 20 stacks always waited. Box 32, {STORE_MEGABYTES} MiB of store
(full after {_store_full(r)}), the folder scanned every 2 s, all else as by default. {_standstills(r)}

MiB is memory that belongs to no file (`Anonymous` of /proc/PID/smaps_rollup), the mean over each tenth of the run; ms of the processor
are of that process, for each particle of that tenth.

{_tenths(r)}

Slopes are of the last 60 %, with the standard error of the fit. Ingest remembers every stack it has seen: what that costs is in the column for
it. The worker's goes up and down with the exports of the poses; the next section measures both by themselves. Scans of the one
folder that holds all files take at most a twentieth of a processor of ingest's time.

| process | MiB an hour | bytes a stack | descriptors after the first fifth | resident at the end, MiB |
| --- | --- | --- | --- | --- |
{chr(10).join(slopes)}

Lag (age of the oldest particle not yet folded): median {lag[len(lag) // 2]:.1f} s, at most {lag[-1]:.1f} s. No process was started again;
every particle is in the map. On disk: {disk}.

Stopped, and started again: its map was there after {r.restart_seconds["map"]:.1f} s, a stack that had come meanwhile and the 20 that had waited were in it after
{r.restart_seconds["new"]:.1f} s, and all {r.stacks} stacks were known again after {r.restart_seconds["known"]:.1f} s.
"""


def _tenths(r):
    """A table of a soak's series, one row for each tenth."""
    names = list(r.own_mib)
    edges = np.linspace(0, len(r.at) - 1, 11).astype(int)
    rows = [
        f"| minutes | particles a second | {' | '.join(f'{n}, MiB' for n in names)} | "
        f"{' | '.join(f'{n}, ms' for n in names)} | descriptors | lag, s |",
        "| --- | --- |" + " --- |" * (2 * len(names) + 2),
    ]
    for first, last in pairwise(edges):
        particles = max(1, r.folded[last] - r.folded[first])
        memory = [f"{np.mean(r.own_mib[n][first:last]):.1f}" for n in names]
        processor = [
            f"{1000 * (r.processor_seconds[n][last] - r.processor_seconds[n][first]) / particles:.2f}" for n in names
        ]
        rows.append(
            f"| {r.at[last] / 60:.0f} | {particles / (r.at[last] - r.at[first]):.0f} | {' | '.join(memory)} | "
            f"{' | '.join(processor)} | {sum(r.descriptors[n][last] for n in names)} | "
            f"{np.median(r.lag_seconds[first:last]):.1f} |"
        )
    return "\n".join(rows)


def _standstills(r):
    gaps = [later - earlier for earlier, later in pairwise(r.at) if later - earlier > _STANDSTILL_SECONDS]
    return (
        f"The whole machine stood still {len(gaps)} times, for {sum(gaps):.0f} s together: that is in the lag."
        if gaps
        else ""
    )


def _store_full(r):
    full = next((i for i, n in enumerate(r.in_store) if n == max(r.in_store)), 0)
    return f"{r.at[full] / 60:.0f} minutes, at {r.in_store[full]} particles"


def memory(folder, options):
    """What grows with a session."""
    ingest, export, page = run_memory(folder)
    rows = [
        f"| {what} | {' | '.join(f'{n}: {mib:.1f}' for n, mib in found)} | "
        f"{(found[-1][1] - found[0][1]) * 2**20 / (found[-1][0] - found[0][0]):.0f} |"
        for what, found in (
            ("ingest, stacks it follows", ingest),
            ("worker, poses exported", export),
            ("page, statuses it heard", page),
        )
    ]
    return f"""## What grows with a session

MiB that belong to no file, in a process that does nothing else, after so many of them. Ingest remembers every stack and its manifest. An export of
the poses (whenever there are a quarter more visits) needs some 30 bytes a pose for a moment, and what the C library's allocator keeps of that for the
next time is what remains: no more is lost, and now and then it is given back. The page keeps curves of at most 600 points, 200 lines of the
log and three maps, and grows until they are full.

| | | | | | | bytes each |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


def fuzz(reports):
    """The readers and decoders, from the figures of a run of their own."""
    rows = "\n".join(
        f"| {r['target']} | {r['inputs']} | {r['seconds']:.0f} | {r['processor_seconds']:.0f} | {r['accepted']} | {sum(r['refused'].values())} | "
        f"{1000 * r['slowest_seconds']:.0f} | {r['memory_growth_bytes'] / 2**20:.1f} |"
        for r in reports
    )
    about = "; ".join(sorted({f"Seed {r['seed']}, revision {r['revision']}, {r['date']}" for r in reports}))
    return f"""## Fuzzing

Inputs that are nearly right, from `python -m tests.faults.fuzz`: bits, bytes, words, fields and pieces of valid files and messages changed
at random. Each is accepted or refused with an error of ours; no other exception, no warning of NumPy's, at most 2 s of the processor and
512 MiB an input. Until there were a million, or the seconds in the table were over.

| reader or decoder | inputs | s | processor, s | accepted | refused | slowest, ms | memory, MiB more |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

{about}.
"""
