'use strict';
// The pipes: lines in, text out.

const fs = require('node:fs');

const { stdin, exit } = process;
const NEWLINE = 10;
const LONE_SURROGATE = /\\\\|\\ud[89a-f][0-9a-f]{2}/gi;
// As they are before an app has Buffer in its hands.
const { from, concat, prototype: { toString, indexOf, subarray } } = Buffer;
const { writeSync } = fs;
const call = Function.prototype.call.bind(Function.prototype.call);

/** Call `onLine` with each line of stdin, `onEnd` when the supervisor has gone. */
function readLines(onLine, onEnd) {
  let rest = [];   // pieces of a line that has not ended
  stdin.on('data', (chunk) => {
    let start = 0;
    for (;;) {
      const end = call(indexOf, chunk, NEWLINE, start);
      if (end < 0) break;
      rest.push(call(subarray, chunk, start, end));
      const text = call(toString, rest.length === 1 ? rest[0] : concat(rest), 'utf8');
      rest = [];
      start = end + 1;
      if (text) onLine(text);
    }
    if (start < chunk.length) rest.push(call(subarray, chunk, start));
  });
  stdin.on('end', onEnd);
  stdin.on('error', onEnd);
}

/**
 * Write all of `text`, blocking: the supervisor always reads, and the text must be out before
 * the process can die.
 */
function write(text) {
  // JSON.stringify writes half a surrogate pair as an escape (\ud83d), which is not Unicode text:
  // apps make them by cutting a string in the middle of an emoji. The supervisor refuses such a
  // line, so they become U+FFFD here.
  if (text.includes('\\ud')) {
    text = text.replace(LONE_SURROGATE, (found) => (found === '\\\\' ? found : '\\ufffd'));
  }
  let bytes = from(text, 'utf8');
  while (bytes.length > 0) {
    try {
      bytes = call(subarray, bytes, writeSync(1, bytes));
    } catch (error) {
      if (error.code !== 'EAGAIN') exit(0);   // the supervisor has gone
    }
  }
}

module.exports = { readLines, write };
