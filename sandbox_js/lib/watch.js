'use strict';
// What the modules of a process look like, so that what a run changes in them can be put back.
//
// A snapshot holds, for each watched object, its own properties, its prototype and whether it may
// be extended. To compare all of it after every run would cost a tenth of a message, so:
//   core   what apps are given: the exports they name, large prototypes, the first of the realm's
//          globals. Compared after every run: values by identity, and how many properties are
//          enumerable. That finds what an assignment or a deletion does.
//   near   classes and what else is found below: compared likewise, some of them after each run.
//   all    compared completely, a few properties after each run and all of it in a process that
//          rests: finds what was defined so as not to be seen, such as a getter that returns the
//          old value.
// If a difference is found, the whole of core and near is compared, and put back.
//
// Functions of the toolkits and of Node that nobody changes are sealed (lib/seal.js) and need not
// be compared.

const { types: { isProxy } } = require('node:util');
const { PLAIN, isPlain, seal } = require('./seal');

const {
  ownKeys, getPrototypeOf, setPrototypeOf, defineProperty, deleteProperty, isExtensible,
  getOwnPropertyDescriptor: describe,
} = Reflect;
const { keys: enumerable, values: valuesIn, isFrozen } = Object;

const DEPTH = 2;             // levels of properties below what a module exports
const MOST = 30000;          // properties that are watched; what comes after is not
const MOST_CORE = 1500;      // of these, in core
const NEAR_IN_TURN = 4;      // objects of near that are compared after a run
const IN_TURN = 4;           // properties that are compared completely after a run
const FEW = 3;               // properties of an object that is not core
const PASSES = 3;            // over objects that change again while they are put back
const PLAIN_SIZE = 3;        // what a plain function counts for in IN_TURN

const isObject = (value) => (typeof value === 'object' && value !== null)
  || typeof value === 'function';

function isSame(now, then) {
  return now !== undefined && Object.is(now.value, then.value) && now.get === then.get
    && now.set === then.set && now.writable === then.writable
    && now.enumerable === then.enumerable && now.configurable === then.configurable;
}

/** What an object looks like now. */
function snapshot(object, name, keys) {
  const watched = {
    object, name, keys, how: new Map(), parent: getPrototypeOf(object),
    isExtensible: isExtensible(object), children: new Set(), isHot: false,
    isPlain: false, size: keys.length, depth: -1, heated: -1,
  };
  for (const key of keys) {
    // V8 computes these two, for as long as the function runs.
    const isComputed = typeof object === 'function' && (key === 'arguments' || key === 'caller');
    if (!isComputed) watched.how.set(key, describe(object, key));
  }
  return watched;
}

function nameOf(owner, key) {
  if (typeof key === 'symbol') return `${owner}[${String(key)}]`;
  return owner === '' ? key : `${owner}.${key}`;
}

function isUnchanged(watched) {
  const { object, how, keys } = watched;
  const now = ownKeys(object);
  if (now.length !== keys.length || isExtensible(object) !== watched.isExtensible) return false;
  if (getPrototypeOf(object) !== watched.parent) return false;
  if (watched.isPlain) {
    const { prototype } = watched;
    const isBare = !isObject(prototype) || ownKeys(prototype).length === 1;
    return object.prototype === prototype && isBare;
  }
  for (let i = 0; i < now.length; i++) {
    const then = how.get(now[i]);
    if (then === undefined ? !keys.includes(now[i]) : !isSame(describe(object, now[i]), then)) {
      return false;
    }
  }
  return true;
}

/** Put an object back as it was; return why that cannot be done, or ''. */
function restore(watched) {
  const { object, name, parent, keys } = watched;
  const how = watched.isPlain ? null : watched.how;
  if (isExtensible(object) !== watched.isExtensible) return `${name} was frozen`;
  if (getPrototypeOf(object) !== parent && !setPrototypeOf(object, parent)) {
    return `the prototype of ${name} was replaced`;
  }
  for (const key of ownKeys(object).reverse()) {   // the newest first: V8 undoes that cheaply
    const isOld = how === null || !how.has(key) ? keys.includes(key) : true;
    if (!isOld && !deleteProperty(object, key)) return `${nameOf(name, key)} was added`;
  }
  if (how === null) {
    const { prototype } = watched;
    for (const key of isObject(prototype) ? ownKeys(prototype) : []) {
      if (key !== 'constructor' && !deleteProperty(prototype, key)) {
        return `${nameOf(`${name}.prototype`, key)} was added`;
      }
    }
    const isBack = isUnchanged(watched)
      || defineProperty(object, 'prototype', { value: watched.prototype });
    return isBack ? '' : `${name}.prototype was replaced`;
  }
  const isMissing = keys.some((key) => how.has(key) && describe(object, key) === undefined);
  for (const [key, then] of how) {
    if (isMissing && then.configurable) deleteProperty(object, key);   // for their old order
    if (isSame(describe(object, key), then) || defineProperty(object, key, then)) continue;
    return `${nameOf(name, key)} was changed`;
  }
  return '';
}

/** Objects that are compared by their values; lists in step, which V8 reads fastest. */
function newGroup() {
  return { at: 0, watched: [], objects: [], shown: [], keys: [], hidden: [] };
}

function join(group, watched) {
  const { object, how } = watched;
  const ordinary = [];
  let isWhole = true;   // whether all enumerable properties are ordinary ones
  for (const [key, { value, get, set, enumerable: isShown }] of how) {
    const isOrdinary = get === undefined && set === undefined && value === value;
    const isOfFunction = typeof object === 'function' && PLAIN.has(key);
    if (isShown && (!isOrdinary || typeof key === 'symbol')) isWhole = false;
    if (isOrdinary && !isOfFunction) ordinary.push(key);
  }
  const rest = isWhole ? ordinary.filter((key) => !how.get(key).enumerable) : ordinary;
  // A prototype's `constructor` is left to the complete comparison, unless it is the only thing
  // that can change.
  const isLeft = watched.isExtensible && rest.length === 1 && rest[0] === 'constructor';
  const keys = isLeft ? [] : rest;
  group.watched.push(watched);
  group.objects.push(object);
  group.shown.push(isWhole ? valuesIn(object) : enumerable(object).length);
  group.keys.push(keys.length > 0 ? keys : null);
  group.hidden.push(keys.map((key) => object[key]));
}

/** Go on from `group.at` to the first object that differs; whether there is one before `end`. */
function find(group, end) {
  const { objects, shown, keys, hidden } = group;
  for (; group.at < end; group.at++) {
    const { at } = group, object = objects[at], then = shown[at];
    if (!isExtensible(object) && group.watched[at].isExtensible) return true;
    if (typeof then === 'number') {
      if (enumerable(object).length !== then) return true;
    } else {
      // All enumerable values at once: faster in V8 than one by one.
      const now = valuesIn(object), most = now.length;
      if (most !== then.length) return true;
      for (let i = 0; i < most; i++) if (now[i] !== then[i]) return true;
    }
    const read = keys[at];
    if (read === null) continue;
    const values = hidden[at];
    for (let i = 0, most = read.length; i < most; i++) {
      if (object[read[i]] !== values[i]) return true;
    }
  }
  return false;
}

/**
 * Watch objects.
 * @param `onFunction(object)` is called for each function with properties that is found.
 */
function createWatch({ onFunction = () => {} } = {}) {
  const known = new Map();   // object -> its snapshot, or null if it is not to be watched
  const all = [];            // snapshots
  const core = newGroup(), near = newGroup();
  let size = 0, coreSize = 0, next = 0, nextNear = 0;

  /** Leave out objects that are watched elsewhere, or are harmless. */
  function ignore(object) { if (!known.has(object)) known.set(object, null); }

  /**
   * Watch an object and what is below it; one that is known, if that goes deeper than before.
   * @param `isOurs`: whether its functions may be sealed.
   */
  function add(object, name, depth = DEPTH, isOurs = false) {
    if (!isObject(object) || size > MOST || isProxy(object)) return;
    let watched = known.get(object);
    if (watched === undefined) {
      if (ArrayBuffer.isView(object)) return;   // bytes are not compared
      const keys = ownKeys(object);
      // Lodash gives many of its functions a toString.
      if (isOurs && isPlain(object, keys.filter((key) => key !== 'toString'))) {
        seal(object);
        add(describe(object, 'toString')?.value, `${name}.toString`, 0, isOurs);
        known.set(object, null);
        return;
      }
      size += keys.length;
      const look = isPlain(object, keys) ? plain : snapshot;
      watched = look(object, name, keys);
      known.set(object, watched);
      watched.isFixed = isFrozen(object);   // what is below it may change
      if (!watched.isFixed) all.push(watched);
      if (typeof object === 'function' && !watched.isPlain) onFunction(object);
    }
    if (watched === null || watched.isPlain || watched.depth >= depth) return;
    watched.depth = depth;
    for (const [key, { value }] of watched.how) {
      if (!isObject(value)) continue;
      const below = key === 'prototype' ? Math.max(depth, 1) : depth;
      if (below === 0) continue;
      add(value, nameOf(name, key), below - 1, isOurs);
      if (known.get(value)) watched.children.add(value);
    }
    if (watched.parent === null || known.has(watched.parent)) return;
    add(watched.parent, `the prototype of ${name}`, 0, isOurs);
    if (known.get(watched.parent)) watched.children.add(watched.parent);
  }

  function plain(object, name, keys) {
    const { prototype } = object;
    return {
      object, name, keys, prototype, parent: getPrototypeOf(object), isHot: false,
      isExtensible: isExtensible(object), isPlain: true, size: PLAIN_SIZE,
    };
  }

  /** Have an object, and what was found below it, in core and near; or in near alone. */
  function heat(object, { depth = DEPTH, mayBeCore = true, isRoot = true } = {}) {
    const watched = isObject(object) ? known.get(object) : null;
    if (!watched || watched.isPlain || watched.heated >= depth) return;
    watched.heated = depth;
    if (!watched.isHot) {
      const isMain = isRoot || (typeof object === 'object' && watched.size > FEW);
      const isCore = mayBeCore && isMain && !watched.isFixed
        && coreSize + watched.size <= MOST_CORE;
      if (isCore) coreSize += watched.size;
      watched.isHot = true;
      if (!watched.isFixed) join(isCore ? core : near, watched);
    }
    for (const child of watched.children) {
      const isClose = watched.how.get('prototype')?.value === child || watched.parent === child;
      if (depth > 0 || isClose) {
        heat(child, { depth: Math.max(depth - 1, 0), mayBeCore, isRoot: false });
      }
    }
  }

  /** Put back what differs in a group, of `count` objects. Returns whether anything did, or why
   *  it cannot be put back. */
  function pass(group, from, count) {
    let hasFound = false;
    for (group.at = from; group.at < from + count; group.at++) {
      let isFound = true;
      try { isFound = find(group, from + count); } catch { /* a planted getter threw */ }
      if (!isFound) return hasFound;
      hasFound = true;
      const why = restore(group.watched[group.at]);
      if (why) return why;
    }
    return hasFound;
  }

  function passHot(isWhole) {
    const found = pass(core, 0, core.watched.length);
    if (typeof found === 'string') return found;
    const all = near.watched.length;
    if (found || isWhole) {
      const more = pass(near, 0, all);
      return typeof more === 'string' ? more : found || more;
    }
    if (nextNear >= all) nextNear = 0;
    const from = nextNear, count = Math.min(NEAR_IN_TURN, all - from);
    nextNear += count;
    return pass(near, from, count);
  }

  /** Compare the objects whose turn it is completely, about `most` properties. */
  function passInTurn(most) {
    let hasFound = false;
    for (let left = most, seen = 0; left > 0 && seen < all.length; seen++) {
      if (next >= all.length) next = 0;
      const watched = all[next++];
      left -= watched.size;
      if (isUnchanged(watched)) continue;
      hasFound = true;
      const why = restore(watched);
      if (why) return why;
    }
    return hasFound;
  }

  /**
   * Put back what differs.
   * @returns {boolean|string} Whether anything did; a text says what cannot be put back.
   */
  function check({ isComplete = false } = {}) {
    let found = passInTurn(isComplete ? Infinity : IN_TURN);
    for (let passes = 0; typeof found !== 'string'; passes++) {
      const again = passHot(found || isComplete);
      if (typeof again === 'string') return again;
      if (!again) return found;
      if (passes === PASSES) return 'a module was changed again and again';
      found = true;
    }
    return found;
  }

  /** Take what is there now for what is right, of all that is watched. */
  function retake() {
    for (let i = 0; i < all.length; i++) {
      const old = all[i], { object, name } = old;
      if (old.isPlain || isUnchanged(old)) continue;
      const { children } = old;
      all[i] = Object.assign(old, snapshot(object, name, ownKeys(object)), { children });
      for (const { value } of old.how.values()) add(value, name, 0);
    }
  }

  /** Forget the objects that came after the first `most`. */
  function shrink(most) {
    for (const { object } of all.splice(most)) known.delete(object);
    // Some of what was below may be forgotten.
    for (const watched of all) watched.depth = watched.heated = -1;
    for (const group of [core, near]) {
      const stay = group.watched.filter(({ object }) => known.has(object));
      if (stay.length === group.watched.length) continue;
      for (const list of [group.watched, group.objects, group.shown, group.keys, group.hidden]) {
        list.length = 0;
      }
      for (const watched of stay) join(group, watched);
    }
    coreSize = core.watched.reduce((sum, watched) => sum + watched.size, 0);
  }

  return {
    add, heat, ignore, check, retake, shrink,
    isHot: (object) => known.get(object)?.isHot === true,
    count: () => all.length,
    sizes: () => ({
      objects: all.length, properties: size, core: core.watched.length, near: near.watched.length,
    }),
  };
}

module.exports = { createWatch };
