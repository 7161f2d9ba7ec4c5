"""The queue that BatchHub brings along: batch jobs on one machine, for trying things out and for places without a scheduler.

``python -m batchhub.localqueue submit|status|cancel|find|info``. Standard library only, and no daemon: each job is a small supervisor
process of its own, in its own session, that outlives whoever submitted it. All state is files in a spool directory:

* ``tag``: four random characters, part of every id (``qzxk-12``), so that ids of a spool that was deleted never come back;
* ``12/job.json``: what was asked for; ``run.json``: that it began; ``end.json``: how it ended; ``supervisor.json``: who looks after it;
* ``12/alive``: locked (flock) by the supervisor from before the job is visible until it is over. A job whose lock is free and that has
  no end is *lost*: its supervisor was killed, or the machine went down;
* ``12/waiting``: locked until the job begins. The next in line waits on this lock, so a queue of any length costs nothing but memory.

Several users may share a spool that root made (``mkdir -m 1777 /var/spool/batchhub``, where it is looked for first): each person's
jobs belong to that person, everybody may see name, owner, state and times (not the script), only the owner and root may cancel. The
limits of that: slots are an agreement among well-meaning users, not enforced; a person can lie about their own jobs, and fill the spool.
A job's processes are not confined: no memory limit, no cgroup. Use a real scheduler where any of this matters.
"""
