// Builds what the admin port serves, from src/ and what package-lock.json pins: the page, one
// script, one style sheet, and the licences of all that is in them. hatch_build.py runs it.
//
//   node build.mjs [--watch] [--out FOLDER]

import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as esbuild from 'esbuild';

const HERE = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({
  options: {
    watch: { type: 'boolean', default: false },
    out: { type: 'string', default: join(HERE, '..', 'supervisor', 'admin', 'web') },
  },
});

// Everything that reached the bundle, package by package, with its licence's text.
async function licences(inputs) {
  const names = Object.keys(inputs).map((path) => (
    path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1]));
  const texts = [];
  for (const name of [...new Set(names.filter(Boolean))].sort()) {
    const folder = join(HERE, 'node_modules', name);
    const { version, license } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
    const file = (await readdir(folder)).find((entry) => /^(un)?licen[cs]e/i.test(entry));
    const text = file ? await readFile(join(folder, file), 'utf8') : '';
    texts.push(`${name} ${version}: ${license}\n\n${text.trim()}\n`);
  }
  return `The console contains these packages.\n\n${texts.join(`\n${'-'.repeat(72)}\n\n`)}`;
}

const finish = {
  name: 'page and licences',
  setup(build) {
    build.onEnd(async ({ metafile, errors }) => {
      if (errors.length) return;
      for (const name of ['index.html', 'icon.svg']) {
        await copyFile(join(HERE, 'src', name), join(values.out, name));
      }
      await writeFile(join(values.out, 'licences.txt'), await licences(metafile.inputs));
    });
  },
};

const options = {
  absWorkingDir: HERE,
  entryPoints: { console: 'src/main.jsx' },
  outdir: values.out,
  bundle: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  minify: true,
  legalComments: 'none',  // they are in licences.txt, with the texts
  metafile: true,
  logLevel: 'warning',
  plugins: [finish],
};

await mkdir(values.out, { recursive: true });
if (values.watch) await (await esbuild.context(options)).watch();
else await esbuild.build(options);
