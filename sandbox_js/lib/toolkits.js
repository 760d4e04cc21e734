'use strict';
// The state that moment and Q keep inside, and how to reset it. They are recognised by what they
// are: an app's node_modules may bring copies of their own.

const TIMES = 10;   // how often a locale may have been updated
const TABLES_DEEP = 3;
const { getPrototypeOf } = Object;

const textOf = (table) => Object.values(table).join('\n');   // faster than one by one
const isObject = (value) => typeof value === 'object' && value !== null;

/** Whether a module is Q. */
function isQueue(found) {
  return typeof found === 'function' && typeof found.defer === 'function'
    && typeof found.resetUnhandledRejections === 'function';
}

/** How to reset the module `found`; null if it keeps no such state. */
function resetOf(found) {
  const has = (...names) => names.every((name) => typeof found[name] === 'function');
  if (has('isMoment', 'locale', 'localeData', 'defineLocale')) return resetMoment(found);
  if (isQueue(found)) return resetQ(found);
  return null;
}

function resetQ({ resetUnhandledRejections }) {
  return () => { resetUnhandledRejections(); return false; };
}

/**
 * @returns {function(): boolean|string} Resets; whether there was anything to reset, or what cannot
 *   be.
 */
function resetMoment(moment) {
  const {
    locale, localeData, defineLocale, updateLocale, locales = () => [],
    relativeTimeThreshold = () => false, relativeTimeRounding = () => false,
  } = moment;
  const name = locale(), data = localeData();
  const names = new Map([...locales()].map((each) => [each, localeData(each)]));
  const thresholds = ['s', 'ss', 'm', 'h', 'd', 'w', 'M']
    .map((unit) => [unit, relativeTimeThreshold(unit)])
    .filter(([, value]) => value !== false);
  const rounding = relativeTimeRounding();
  const contents = new Map([...names.values(), data].map((each) => [each, contentOf(each)]));
  let turn = 0;

  function restoreLocale(each, then) {
    for (let times = 0; localeData(each) !== then; times++) {
      if (times === TIMES || typeof updateLocale !== 'function') return false;
      updateLocale(each, null);
    }
    return true;
  }

  return () => {
    let hasFound = false;
    // One of many locales in turn: an app that has them all does not update one that it has not
    // chosen.
    const now = [...locales()], looked = now.length > 0 ? now[turn++ % now.length] : name;
    if (locale() !== name || localeData() !== data || now.length !== names.size
      || (names.has(looked) && localeData(looked) !== names.get(looked))) {
      hasFound = true;
      locale(name);
      for (const each of now) if (!names.has(each)) defineLocale(each, null);
      for (const [each, then] of names) {
        if (!restoreLocale(each, then)) return `moment's locale ${each} was changed`;
      }
      locale(name);
      if (localeData() !== data) return `moment's locale ${name} was changed`;
    }
    for (const each of new Set([data, names.get(looked) ?? data])) {
      if (contents.get(each)()) hasFound = true;
    }
    if (thresholds.some(([unit, value]) => relativeTimeThreshold(unit) !== value)) {
      hasFound = true;
      for (const [unit, value] of thresholds) relativeTimeThreshold(unit, value);
    }
    if (rounding && relativeTimeRounding() !== rounding) {
      hasFound = true;
      relativeTimeRounding(rounding);
    }
    return hasFound;
  };
}

/** How to reset Node's module buffer: what it keeps behind an accessor. */
function resetBuffer(buffer) {
  const { INSPECT_MAX_BYTES: most } = buffer;
  return () => {
    if (buffer.INSPECT_MAX_BYTES === most) return false;
    buffer.INSPECT_MAX_BYTES = most;
    return true;
  };
}

/**
 * The contents of a locale: its tables, which are made with it. What moment computes and keeps
 * there, in names that begin with _, is left alone.
 * @returns {function(): boolean} Puts them back; whether anything differed.
 */
function contentOf(locale) {
  const objects = [], keys = [], values = [], texts = [], seen = new Set();
  const add = (object, depth) => {
    const isTable = Array.isArray(object) || object === locale
      || (isObject(object) && getPrototypeOf(getPrototypeOf(object) ?? object) === null);
    if (!isTable || seen.has(object)) return;
    seen.add(object);
    objects.push(object);
    keys.push(Object.keys(object));
    values.push(Object.values(object));
    const isText = Object.values(object).every((value) => typeof value === 'string');
    texts.push(isText ? textOf(object) : null);
    if (depth > 0) for (const value of Object.values(object)) add(value, depth - 1);
  };
  add(locale, TABLES_DEEP);
  const own = new Set(keys[0]);
  let size = own.size;   // how many properties there were when they were last looked at

  function dropNew() {
    let hasFound = false;
    for (const key of Object.keys(locale)) {
      if (key[0] === '_' || own.has(key)) continue;
      delete locale[key];
      hasFound = true;
    }
    size = Object.keys(locale).length;
    return hasFound;
  }

  return () => {
    let hasFound = Object.keys(locale).length !== size && dropNew();
    for (let at = 0; at < objects.length; at++) {
      const object = objects[at], names = keys[at], then = values[at];
      if (texts[at] !== null && textOf(object) === texts[at]) continue;
      for (let i = 0; i < names.length; i++) {
        if (object[names[i]] === then[i]) continue;
        object[names[i]] = then[i];
        hasFound = true;
      }
    }
    return hasFound;
  };
}

module.exports = { isQueue, resetBuffer, resetOf };
