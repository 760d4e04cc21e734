'use strict';
// Stacks as a developer should see them: the frames of the app at the places in its sources that
// its source map names, those of libraries in one line, those of this harness not at all. Nothing
// here runs before there is a stack to show.

const path = require('node:path');

const STACK_MAX = 16000;      // characters of a stack that are looked at
const FOUND_MAX = 500;        // places that are kept
const LAST_LINES = 4000;      // characters at the end of an app in which a reference may be found
const REFERENCE = /^[ \t]*\/\/[#@] ?sourceMappingURL=(\S+)[ \t]*$/gm;
const INLINE = /^data:application\/json(;[^,]*)?,/;
const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const MARKS = new WeakMap();   // of `segmentOf`, by the map
const END_OF_SEGMENT = -1, END_OF_LINE = -2;
const VALUES = new Int8Array(128);   // of the digits, by their character codes
VALUES[','.charCodeAt(0)] = END_OF_SEGMENT;
VALUES[';'.charCodeAt(0)] = END_OF_LINE;
for (let i = 0; i < DIGITS.length; i++) VALUES[DIGITS.charCodeAt(i)] = i;

/**
 * Make what shows the stacks of an app.
 * @param `hidden` are texts of frames that are left out; `filename` is how V8 names the app's text,
 *   `source`, in a frame; `map`: its source map as JSON, if that is not in the text itself;
 *   `modulesDir` has its own packages.
 * @returns {{show(stack: string): string, place(line, column)}} `place`: where a line and column of
 *   the text, from 1, come from, {file, line, column}, or null. `column` is 0 if it is not known.
 */
function createStacks({ hidden = [], filename = '', source = '', map = '', modulesDir = '' }) {
  const known = new Map();
  let parsed;

  function mapOf() {
    if (parsed !== undefined) return parsed;
    parsed = null;
    try {
      const text = inlineMap(source) || map;
      if (text) parsed = JSON.parse(text);
    } catch { /* it is no source map: frames stay as they are */ }
    map = source = '';
    return parsed;
  }

  function place(line, column) {
    const key = `${line}:${column}`;
    if (known.has(key)) return known.get(key);
    let found = null;
    try {
      const whole = mapOf();
      if (whole !== null) found = find(whole, line - 1, Math.max(column - 1, 0));
    } catch { /* likewise */ }
    if (known.size < FOUND_MAX) known.set(key, found);
    return found;
  }

  const name = filename.replace(/[^\w]/g, '\\$&');
  const own = filename && new RegExp(`(^|[ (])${name}:(\\d{1,9})(?::(\\d{1,9}))?(?=\\)|,|$)`, 'g');

  function mapped(text) {
    return text.replace(own, (whole, before, line, column) => {
      const found = place(Number(line), Number(column ?? 0));
      if (found === null) return whole;
      const at = column === undefined ? `${found.line}` : `${found.line}:${found.column}`;
      return `${before}${found.file}:${at}`;
    });
  }

  function show(stack) {
    const shown = [];
    let folded = [], isFirst = true;
    const fold = () => {
      if (folded.length === 0) return;
      const many = folded.length === 1 ? '1 frame' : `${folded.length} frames`;
      shown.push(`    ... ${many} of ${[...new Set(folded)].join(', ')}`);
      folded = [];
    };
    for (const line of stack.slice(0, STACK_MAX).split('\n')) {
      const isFrame = /^\s*at /.test(line);
      if (isFrame && hidden.some((mark) => line.includes(mark))) continue;
      const file = isFrame ? fileOf(line) : '';
      const inside = file && insideOf(file, modulesDir);
      if (inside && !isFirst) { folded.push(packageOf(inside)); continue; }
      fold();
      // The frame that threw stays, also if it is a library's.
      const isOwn = !inside && filename && (isFrame || line.startsWith(`${filename}:`));
      const short = inside ? line.replace(file, () => `node_modules/${inside}`) : line;
      shown.push(isOwn ? mapped(line) : short);
      isFirst = isFirst && !isFrame;
    }
    fold();
    return shown.join('\n');
  }

  return { show, place };
}

function fileOf(frame) {
  const open = frame.lastIndexOf('('), isClosed = open >= 0 && frame.endsWith(')');
  const at = isClosed ? frame.slice(open + 1, -1) : frame.replace(/^\s*at (?:async )?/, '');
  const found = /^(.*):\d+:\d+$/.exec(at);
  return found === null ? '' : found[1];
}

/** What a file is called in its node_modules; '' if it is in none. */
function insideOf(file, modulesDir) {
  const mark = '/node_modules/', at = file.lastIndexOf(mark);
  if (at >= 0) return file.slice(at + mark.length);
  const isOwn = modulesDir !== '' && file.startsWith(`${modulesDir}/`);
  return isOwn ? file.slice(modulesDir.length + 1) : '';
}

function packageOf(inside) {
  return inside.split('/').slice(0, inside.startsWith('@') ? 2 : 1).join('/');
}

/** The text of the source map that is in the text of an app; '' if there is none. */
function inlineMap(source) {
  // The map may be long, and the reference to it is the last line, or nearly.
  const from = Math.max(source.lastIndexOf('sourceMappingURL=', source.length) - LAST_LINES, 0);
  let url = '';
  for (const [, found] of source.slice(from).matchAll(REFERENCE)) url = found;
  const head = INLINE.exec(url);
  if (head === null) return '';
  const data = url.slice(head[0].length);
  if (!/;base64$/.test(head[1] ?? '')) return decodeURIComponent(data);
  return Buffer.from(data, 'base64').toString();
}

/** Where a place of a bundle, both from 0, comes from; null if the map does not say. */
function find(map, line, column) {
  if (Array.isArray(map.sections)) {
    const isBefore = ({ offset: at }) => at.line < line
      || (at.line === line && at.column <= column);
    const section = map.sections.findLast(isBefore);
    if (section === undefined) return null;
    const { offset } = section;
    return find(section.map, line - offset.line, offset.line === line ? column - offset.column
      : column);
  }
  if (!MARKS.has(map)) MARKS.set(map, [{ at: 0, source: 0, sourceLine: 0, sourceColumn: 0 }]);
  const found = segmentOf(map.mappings, MARKS.get(map), line, column);
  if (found === null || typeof map.sources[found.source] !== 'string') return null;
  // A line with nothing but its beginning was copied as it is.
  const more = found.isWhole ? column : 0;
  return {
    file: nameOf(map.sourceRoot, map.sources[found.source]),
    line: found.line + 1,
    column: found.column + more + 1,
  };
}

/**
 * The segment of a source map's mappings that a place falls into, or the next one in its line.
 * `marks` has the state at every 64th line that was read before: a stack has many places, and a
 * pass over a megabyte takes a seventh of a second of CPU without V8's compiler. Node's own
 * SourceMap takes longer, and a hundred bytes of the app's heap for each mapping.
 */
function segmentOf(mappings, marks, line, column) {
  const first = Math.min(line >> 6, marks.length - 1);
  let { at, source, sourceLine, sourceColumn } = marks[first], found = null;
  for (let row = first << 6; row <= line && at <= mappings.length; row++) {
    if (row === marks.length << 6) marks.push({ at, source, sourceLine, sourceColumn });
    let start = 0, count = 0, length = 0, value = 0, shift = 0, digit = 0;
    do {
      digit = at < mappings.length ? VALUES[mappings.charCodeAt(at)] : END_OF_LINE;
      at++;
      if (digit >= 0) {
        value += (digit & 31) << shift;
        if (digit & 32) { shift += 5; continue; }
        const delta = value & 1 ? -(value >> 1) : value >> 1;
        if (length === 0) start += delta;
        else if (length === 1) source += delta;
        else if (length === 2) sourceLine += delta;
        else if (length === 3) sourceColumn += delta;
        length++;
        value = shift = 0;
        continue;
      }
      if (length > 0) count++;
      if (length > 3 && row === line && (found === null || start <= column)) {
        found = { source, line: sourceLine, column: sourceColumn, start, isWhole: false };
      }
      length = 0;
    } while (digit >= 0 || digit === END_OF_SEGMENT);
    if (found !== null && count === 1 && found.start === 0) found.isWhole = found.column === 0;
  }
  return found;
}

/** A source's name as a developer knows it: relative to the folder that the map's paths meet in. */
function nameOf(root, source) {
  const name = (typeof root === 'string' ? root : '') + source;
  if (name.startsWith('file://')) return decodeURIComponent(name.slice('file://'.length));
  if (name.startsWith('/')) return name;
  const plain = name.replace(/^[\w-]+:\/\/[^/]*\//, '');
  return path.posix.normalize(plain).replace(/^(?:\.\.\/)+/, '');
}

module.exports = { createStacks };
