'use strict';
// The host realm as an app finds it that got hold of something in it, such as a method of Buffer.
// Only hygiene: the jail around the process is what holds.

const { replaceable } = require('./seal');

const { freeze, defineProperty } = Object;
const { ownKeys, getPrototypeOf, getOwnPropertyDescriptor } = Reflect;

// Errors stay as they are: Node itself assigns to the properties that they inherit.
const FROZEN = ['Object', 'Array', 'Function', 'Promise', 'String', 'RegExp', 'Number', 'Boolean',
  'Symbol', 'BigInt', 'Date', 'Map', 'Set', 'WeakMap', 'WeakSet', 'WeakRef',
  'FinalizationRegistry', 'ArrayBuffer', 'SharedArrayBuffer', 'DataView', 'Proxy', 'Iterator',
  'Int8Array', 'Uint8Array', 'Uint8ClampedArray', 'Int16Array', 'Uint16Array', 'Int32Array',
  'Uint32Array', 'Float32Array', 'Float64Array', 'BigInt64Array', 'BigUint64Array',
  'JSON', 'Math', 'Reflect', 'Atomics', 'Intl'];

const ITERATORS = [[].values(), new Map().keys(), new Set().keys(), ''[Symbol.iterator](),
  'a'.matchAll(/a/g), new URLSearchParams().keys(), (function* () {})()].map(getPrototypeOf);

/** What of the host realm is frozen, and so need not be watched. */
function frozenOfHost() {
  const found = new Set();
  for (const name of FROZEN) {
    const value = globalThis[name];
    if (value === undefined) continue;
    found.add(value);
    if (typeof value === 'function' && value.prototype) found.add(value.prototype);
  }
  const Typed = getPrototypeOf(Int8Array);
  for (const nameless of [Typed, Typed.prototype, ...ITERATORS]) found.add(nameless);
  return found;
}

/**
 * Freeze what nobody changes, and give the emitters on which the harness depends their methods as
 * properties of their own: whoever replaces a method of Node's prototypes is not called with them.
 */
function hardenHost(host) {
  replaceable(Object.prototype, ['toString', 'toLocaleString', 'valueOf']);
  for (const value of frozenOfHost()) freeze(value);
  for (const emitter of [host, host.stdin]) pin(emitter);
  // Else small buffers share one block of memory, with what other runs wrote there.
  Buffer.poolSize = 0;
}

function pin(object) {
  for (let from = getPrototypeOf(object); from !== null; from = getPrototypeOf(from)) {
    if (from === Object.prototype) return;
    for (const key of ownKeys(from)) {
      const { value } = getOwnPropertyDescriptor(from, key);
      if (typeof value !== 'function' || key === 'constructor' || Object.hasOwn(object, key)) {
        continue;
      }
      defineProperty(object, key, { value, writable: true, configurable: true });
    }
  }
}

module.exports = { frozenOfHost, hardenHost };
