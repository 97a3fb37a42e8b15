"""Every bound of the daemon, with its reason. Times are seconds."""

# Whoever creates a device hangs, uninterruptibly, until it is told the outcome. That is time enough to open
# many layers at a slow registry, and less than what containerd's clients wait.
OPEN_LIMIT_S = 60.0
# Whoever removes a device hangs too. An upper that is not flushed by then is flushed behind its back.
REMOVE_LIMIT_S = 60.0
# One that is not open yet need not be flushed; it is closed as soon as it is open.
REMOVE_UNOPENED_S = 5.0
# As long may the kernel's wait for another size take.
RECONFIGURE_LIMIT_S = 30.0

# Devices that are being opened at once: each may wait for a registry, and does little else.
OPENERS = 64
# Devices that are being closed at once: these wait for disks.
CLOSERS = 16
# Requests of one device that wait at once.
WORKERS = 16

# Pauses before another attempt to take over a device whose image cannot be opened.
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
# How long the start waits for the first attempts, before it says that it is ready.
READY_S = 20.0

# How often time limits are looked at; the least precision of all of the above.
TICK_S = 1.0
# How often what the kernel has is held against what is served.
RECONCILE_S = 30.0

# A request that has taken so long is told of; then again after twice the time, and so on.
SLOW_S = 30.0

# How long an ending daemon lets devices finish what is under way; the rest the next one carries out.
DRAIN_S = 10.0
# The same for what is in the ring of a device that stands still, and has not been seen yet.
LAST_S = 1.0
# The same when another daemon is to take the place of this one, while all disks stand still; if something is
# under way even then, this one goes on.
HANDOVER_S = 5.0
# How long the next daemon waits for this one to leave its devices, and then for its end.
LEAVE_S = 90.0
END_S = 10.0
# How long closing may take after that, before the process ends nevertheless, as in a crash.
CLOSE_LIMIT_S = 60.0
