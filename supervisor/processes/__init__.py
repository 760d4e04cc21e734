"""One server of several processes, for all cores of one machine: `jsbox serve --processes N`.

A parent, which does nothing else, starts the processes and starts again those that die. Each is a
whole supervisor with sandboxes of its own; they share the work as servers on several machines do
(docs/hosts.md). If the store is the embedded one, another process keeps it for all of them.

    parent.py        supervises; accepts the gateway's connections and hands them over
    children.py      what it knows of a child
    line.py          the socket between the parent and a child, and what is said on it
    sockets.py       the ports, bound before anything else happens
    shares.py        what each process has of the bounds in the config
    member.py        a process, seen from within
    storekeeper.py   the process that keeps the embedded store
    run.py           puts them together
"""
