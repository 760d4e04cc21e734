'use strict';
// The file with the compiled toolkits: a header (its length, then JSON with names and lengths),
// then the bytes of each. Not V8's own serializer: loading that would take a fifth of a process's
// start.

const fs = require('node:fs');

/** Encode what `compiled()` of a library returns. */
function encode({ files, resolved }) {
  const parts = [], names = [];
  for (const [name, { source, data }] of files) {
    const text = Buffer.from(source, 'utf8');
    names.push([name, text.length, data.length]);
    parts.push(text, data);
  }
  const header = Buffer.from(JSON.stringify({ names, resolved: [...resolved] }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.length);
  return Buffer.concat([length, header, ...parts]);
}

/** Read such a file: {files: Map, resolved: Map}, or null if that cannot be done. */
function read(file) {
  try {
    const bytes = fs.readFileSync(file);
    let at = 4 + bytes.readUInt32LE(0);
    const { names, resolved } = JSON.parse(bytes.toString('utf8', 4, at));
    const files = new Map();
    for (const [name, text, data] of names) {
      const middle = at + text, end = middle + data;
      files.set(name, {
        source: bytes.toString('utf8', at, middle), data: bytes.subarray(middle, end),
      });
      at = end;
    }
    return { files, resolved: new Map(resolved) };
  } catch {
    return null;
  }
}

module.exports = { encode, read };
