'use strict';
// How much of V8's heap is in use, and whether so much of it stays that the process should end
// before a run does for want of it.

const AFTER = 10;          // runs of a process before its heap is first measured
const EVERY = 4;           // runs from one measurement to the next
const FULL = 0.85;         // of the limit; as a rule V8 has collected before
const LIVE_MOST = 2 / 3;   // of the limit, that may be alive between runs
const OLD = /^--max-old-space-size=(\d+)$/;   // MiB

/**
 * @param `flags` of V8, of which one limits its heap; `collect()` collects all garbage, in some
 *   20 ms.
 * @returns {{measure(): number, isFull(): boolean}}
 */
function createHeap(flags, collect) {
  const limits = flags.map((flag) => OLD.exec(flag)).filter(Boolean);
  const limit = limits.length > 0 ? Number(limits.at(-1)[1]) * 2 ** 20 : Infinity;
  let isFresh = false, runs = 0, statistics = null, used = 0, lastLive = 0;
  const look = () => statistics().used_heap_size;

  return {
    /** Bytes in use after a run, garbage included; 0 in a young process, in which the first call
     *  of V8's statistics would take 4 ms. */
    measure() {
      isFresh = ++runs >= AFTER && runs % EVERY === 0;
      if (!isFresh) return 0;
      statistics ??= require('node:v8').getHeapStatistics;
      const before = used;
      used = look();
      if (used < before) lastLive = used;   // V8 has collected
      return used;
    },

    /** Whether what is alive between runs leaves too little for the next; after `measure`. */
    isFull() {
      if (!isFresh || (used < limit * FULL && lastLive < limit * LIVE_MOST)) return false;
      collect();
      used = lastLive = look();
      return used > limit * LIVE_MOST;
    },
  };
}

module.exports = { createHeap };
