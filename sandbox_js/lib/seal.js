'use strict';
// Functions and classes that nobody changes are sealed, so that no run leaves anything on them.
// Nothing is sealed whose methods a class that inherits them may want to replace by assignment:
// that fails where the one it inherits is read-only.

const { types: { isProxy } } = require('node:util');

const { freeze, preventExtensions, seal: keepKeys } = Object;
const { defineProperty, ownKeys, getPrototypeOf, getOwnPropertyDescriptor: describe } = Reflect;

const PLAIN = new Set(['length', 'name', 'arguments', 'caller', 'prototype']);
const DEPTH = 4;        // levels of properties below a module of Node
const OF_PARENTS = 2;   // and below what its classes inherit

// Node assigns to what errors inherit, and the rest is frozen or watched elsewhere.
const ERRORS = [Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError,
  AggregateError];
const LEFT = new Set([globalThis, Object, Function, Array, ...ERRORS,
  ...[Object, Function, Array, ...ERRORS].map(({ prototype }) => prototype)]);

const isObject = (value) => (typeof value === 'object' && value !== null)
  || typeof value === 'function';

/** Whether a function has only what every function has, and no methods. */
function isPlain(value, keys) {
  if (typeof value !== 'function' || keys.length > PLAIN.size) return false;
  for (const key of keys) if (!PLAIN.has(key)) return false;
  const prototype = describe(value, 'prototype')?.value;
  if (!isObject(prototype)) return true;
  const parent = isProxy(prototype) ? null : getPrototypeOf(prototype);
  return ownKeys(prototype).length === 1 && parent !== null && getPrototypeOf(parent) === null;
}

/** Seal a plain function: nothing can be put on it, nor on the prototype that came with it. */
function seal(plain) {
  const prototype = describe(plain, 'prototype')?.value;
  if (isObject(prototype) && !isProxy(prototype)) preventExtensions(prototype);
  freeze(plain);
}

/** Let nothing be added to a class of the language, or to its prototype. */
function close(found) {
  if (!isObject(found)) return;
  preventExtensions(found);
  const prototype = describe(found, 'prototype')?.value;
  if (isObject(prototype)) preventExtensions(prototype);
}

/**
 * Let what inherits a class or a prototype replace these of its methods by assignment, even once
 * that is frozen: a read-only property that is inherited would forbid it.
 */
function replaceable(object, keys) {
  for (const key of keys) {
    const { value, writable, enumerable, configurable } = describe(object, key);
    if (!writable || !configurable) continue;
    defineProperty(object, key, {
      enumerable,
      configurable,
      get() { return value; },
      set(own) {
        if (this === object) return;
        defineProperty(this, key, { value: own, writable, enumerable: true, configurable });
      },
    });
  }
}

/** Seal a prototype. Its `constructor` stays as it is: util.inspect looks there for a name. */
function sealPrototype(prototype) {
  replaceable(prototype, ownKeys(prototype).filter((key) => key !== 'constructor'));
  keepKeys(prototype);
}

/** Freeze a function or an object; if it is a class, its methods are replaceable. */
function freezeWhole(object) {
  const prototype = typeof object === 'function' ? describe(object, 'prototype')?.value : null;
  const isClass = isObject(prototype) && !isProxy(prototype) && ownKeys(prototype).length > 1;
  if (isClass) replaceable(object, ownKeys(object).filter((key) => !PLAIN.has(key)));
  freeze(object);
}

/**
 * Seal what a module of Node exports, but not the module itself: apps may replace what it exports.
 */
function sealBuiltin(found) {
  const seen = new Set([found, ...LEFT]);

  const below = (object, depth, isParent) => {
    for (const key of ownKeys(object)) {
      const { value, get, set } = describe(object, key);
      for (const each of [value, get, set]) {
        if (!isObject(each)) continue;
        const isPrototype = key === 'prototype' && typeof object === 'function';
        visit(each, depth, isParent && isPrototype, isPrototype);
      }
    }
  };

  const visit = (object, depth, isParent = false, isPrototype = false) => {
    if (seen.has(object) || isProxy(object) || ArrayBuffer.isView(object)) return;
    seen.add(object);
    const parent = getPrototypeOf(object);
    if (parent !== null) visit(parent, OF_PARENTS, true);
    if (depth > 0) below(object, depth - 1, isParent);
    const isDerived = parent !== null && !LEFT.has(parent);
    if (isParent || isDerived) preventExtensions(object);
    else if (isPrototype) sealPrototype(object);
    else freezeWhole(object);
  };

  below(found, DEPTH, false);
}

module.exports = { PLAIN, close, isPlain, replaceable, seal, sealBuiltin };
