'use strict';
// The file with the compiled toolkits: a header (its length, then JSON: names and lengths) and the bytes one after the other. Not V8's own
// serializer: to load it takes as long as a fifth of a process's start.

const fs = require('node:fs');

/** @param {{files: Map, resolved: Map}} compiled as Library.compiled() gives it. @returns {Buffer} */
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

/** What is in such a file: {files: Map, resolved: Map}; null where there is none, or none that can be read. */
function read(file) {
  try {
    const bytes = fs.readFileSync(file);
    let at = 4 + bytes.readUInt32LE(0);
    const { names, resolved } = JSON.parse(bytes.toString('utf8', 4, at));
    const files = new Map();
    for (const [name, text, data] of names) {
      files.set(name, { source: bytes.toString('utf8', at, at + text), data: bytes.subarray(at + text, at + text + data) });
      at += text + data;
    }
    return { files, resolved: new Map(resolved) };
  } catch {
    return null;
  }
}

module.exports = { encode, read };
