'use strict';
// Lets the functions that a toolkit makes in a run be forgotten with it.
//
// V8's parser takes a function that is assigned to a property (`self.x = function ...`) for one
// that stays, and has it made among the old objects. There it counts as alive until the next full
// collection, however long it has been garbage, and with it all that it refers to: the promises,
// states and users of its run. Every collection of young objects copied them, twice. The toolkits
// make hundreds of such functions a message. `0 || function ...` is the same value, and not what
// the parser looks for; the interpreter never sees the `0`.

const path = require('node:path');

const BUNDLED = path.join(path.dirname(__dirname), 'node_modules') + path.sep;
const ASSIGNED = /(?:\.[\w$]+|\])\s*=\s*(?=function\b)/g;

/** The source of a bundled file so that it makes young functions; that of others as it is. */
function withYoungFunctions(file, source) {
  if (!file.startsWith(BUNDLED)) return source;
  return source.replace(ASSIGNED, (assigned) => `${assigned}0 || `);
}

module.exports = { withYoungFunctions };
