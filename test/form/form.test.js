// Draws the form by which OpenShift's console (and OperatorHub) lets an administrator
// create a Vault, as its rules make it of our bundle: of the CRD's schema, the
// specDescriptors and the first of the examples. It then fills in the form in a
// headless Chromium as an administrator would, and checks what is seen and what comes
// out of it.
//
// rules.js are the console's rules, form.jsx draws by them, form.css makes it
// look roughly alike. Run it by run.sh.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { customizeValidator } from '@rjsf/validator-ajv8';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';
import { parse } from 'yaml';
import { schemaAt } from './rules.js';

const manifests = join(import.meta.dirname, '../../bundle/manifests');
const manifest = async (name) => parse(await readFile(join(manifests, name), 'utf8'));
const csv = await manifest('vault-operator.clusterserviceversion.yaml');
const crd = await manifest('vault.security.coreos.com_vaults.yaml');

const api = csv.spec.customresourcedefinitions.owned.find(({ kind }) => kind === 'Vault');
const schema = crd.spec.versions.find(({ name }) => name === api.version).schema.openAPIV3Schema;
const sample = JSON.parse(csv.metadata.annotations['alm-examples']).find(({ kind }) => kind === 'Vault');
const descriptors = api.specDescriptors;
const namespace = 'default';
const objects = {
  ConfigMap: ['vault-config'],
  Secret: ['mine', 'my-ca'],
  StorageClass: ['standard', 'fast'],
  PriorityClass: ['system-cluster-critical'],
};

// Fields that the console leaves out, because they are maps or have no parts: they can be set in its
// YAML view only.
const undrawable = [
  'pod.nodeSelector',
  'pod.annotations',
  'pod.labels',
  'pod.serviceAccountAnnotations',
  'sealMigration.from.shamir',
  'service.annotations',
  'storage.etcd.pod.nodeSelector',
];

const drawn = descriptors.filter(({ path }) => !undrawable.includes(path));
const isAdvanced = (descriptor) =>
  descriptor['x-descriptors']?.includes('urn:alm:descriptor:com.tectonic.ui:advanced');

// What the API server responds with, as far as the schema without its rules tells.
const validator = customizeValidator({ ajvOptionsOverrides: { validateFormats: false } });
function create(object) {
  const { errors } = validator.rawValidation(schema, object);
  if (!errors?.length) {
    return { status: 201, body: { created: object.metadata.name } };
  }
  const causes = errors.map(({ instancePath, message }) => {
    const at = instancePath.split('/').slice(1);
    const value = at.reduce((inside, part) => inside[part], object);
    return `${at.join('.')}: Invalid value: ${JSON.stringify(value)}: ${message}`;
  });
  return {
    status: 422,
    body: { error: `Vault "${object.metadata.name}" is invalid: ${causes.join(', ')}` },
  };
}

// What the API server makes of an object: it sets the defaults of the schema.
function withDefaults(at, value = at.default) {
  if (!at.properties || value === undefined) {
    return value;
  }
  const set = { ...value };
  for (const [name, property] of Object.entries(at.properties)) {
    const child = withDefaults(property, set[name]);
    if (child !== undefined) {
      set[name] = child;
    }
  }
  return set;
}

let created;
let server;
let browser;
let profile;
let page;

before(async () => {
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, 'form.jsx')],
    bundle: true,
    write: false,
    outdir: 'build',
    format: 'esm',
    jsx: 'automatic',
    define: { 'process.env.NODE_ENV': '"production"' },
  });
  const built = (ending) => outputFiles.find(({ path }) => path.endsWith(ending)).text;
  const files = {
    '/': ['text/html', `<!doctype html><meta charset="utf-8"><title>Create Vault</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="form.css">
<div id="root"></div><script type="module" src="form.js"></script>`],
    '/form.js': ['text/javascript', built('.js')],
    '/form.css': ['text/css', built('.css')],
    '/input.json': ['application/json', JSON.stringify({ schema, api, sample, namespace, objects })],
  };
  server = http.createServer(async (request, response) => {
    if (request.method === 'POST') {
      created = JSON.parse(Buffer.concat(await request.toArray()));
      const { status, body } = create(created);
      response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
      return;
    }
    const [type, text] = files[request.url] ?? [];
    response.writeHead(type ? 200 : 404, { 'Content-Type': `${type}; charset=utf-8` }).end(text);
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));

  profile = await mkdtemp(join(tmpdir(), 'form-'));
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: '/usr/bin/chromium',
    headless: true,
    args: [
      '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
    viewport: { width: 900, height: 1000 },
  });
  browser.setDefaultTimeout(10_000);
});

after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
  if (profile) {
    await rm(profile, { recursive: true, force: true, maxRetries: 3 });
  }
});

async function open() {
  await page?.close();
  page = await browser.newPage();
  page.on('pageerror', (error) => assert.fail(error));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.getByRole('button', { name: 'Create', exact: true }).waitFor();
}

// A section with all that is in it.
const section = (...labels) =>
  labels.reduce((inside, name) => inside.getByRole('group', { name, exact: true }), page);
const toggle = (group) => group.locator('> .toggle');
const fieldOf = (path) => page.locator(`[data-field="root_spec_${path.replaceAll('.', '_')}"]`);

// Opens sections from the outside to the inside.
async function openAll(selector) {
  const closed = page.locator(`${selector} > .toggle[aria-expanded="false"]:visible`);
  while (await closed.count()) {
    await closed.first().click();
  }
}

test('an administrator sees the fields under the names that the descriptors give them', async (t) => {
  await open();
  await openAll('.group');

  await t.test('with the advanced ones folded away', async () => {
    for (const descriptor of drawn) {
      assert.equal(await fieldOf(descriptor.path).isVisible(), !isAdvanced(descriptor), descriptor.path);
    }
    await openAll(':is(.group, .advanced)');
    for (const { path } of drawn) {
      assert.ok(await fieldOf(path).isVisible(), path);
    }
    for (const path of undrawable) {
      assert.equal(await fieldOf(path).count(), 0, `${path} can be drawn now`);
    }
  });

  await t.test('and no other names', async () => {
    const seen = await page.locator('[data-field^="root_spec_"]').evaluateAll((fields) =>
      fields.map(({ dataset, children }) => [
        dataset.field.slice('root_spec_'.length).replaceAll('_', '.'),
        children[0].textContent.trim(),
      ]),
    );
    // An affinity is Kubernetes' own, and named as its API names it.
    const ours = seen.filter(([path]) => !/(^|\.)pod\.affinity\./.test(path));
    const names = (pairs) => Object.fromEntries(pairs.sort());
    assert.deepEqual(names(ours), names(drawn.map(({ path, displayName }) => [path, displayName])));
  });
});

test('nothing that is required is folded away', async () => {
  await open();
  await openAll('.group');
  assert.ok(await page.getByLabel('Name', { exact: true }).isVisible());
  const check = async (at, path) => {
    for (const name of at.required ?? []) {
      assert.ok(await fieldOf([...path, name].join('.')).isVisible(), [...path, name].join('.'));
    }
    for (const [name, property] of Object.entries(at.properties ?? {})) {
      const descriptor = descriptors.find((one) => one.path === [...path, name].join('.'));
      if (descriptor && !isAdvanced(descriptor)) {
        await check(property, [...path, name]);
      }
    }
  };
  await check(schema.properties.spec, []);
});

test('the form starts with the sample and the defaults', async () => {
  await open();
  assert.equal(await page.getByLabel('Name', { exact: true }).inputValue(), sample.metadata.name);
  const spec = withDefaults(schema.properties.spec, sample.spec);
  let checked = 0;
  for (const { path } of drawn) {
    const value = path.split('.').reduce((inside, name) => inside?.[name], spec);
    const type = schemaAt(schema.properties.spec, path.split('.')).type;
    if (value === undefined || type === 'array' || type === 'object') {
      continue;
    }
    assert.equal(await fieldOf(path).locator('input, select').inputValue(), String(value), path);
    checked++;
  }
  assert.ok(checked >= 4, `only ${checked} fields have an initial value`);
  await openAll('.group');
  const requests = section('Pods', 'Resources', 'Requests');
  const { cpu, memory } = spec.pod.resources.requests;
  assert.equal(await requests.getByLabel('CPU cores').inputValue(), cpu);
  assert.equal(await requests.getByLabel('Memory').inputValue(), memory);
});

test('what is invalid is refused in the form', async () => {
  await open();
  await page.getByLabel('Nodes', { exact: true }).fill('0');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  assert.match(await page.getByRole('alert').textContent(), /spec\.nodes: Invalid value: 0: must be >= 1/);
  assert.equal(await page.getByRole('status').count(), 0);

  await page.getByLabel('Nodes', { exact: true }).fill('1');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('status').waitFor();
  assert.equal(await page.getByRole('alert').count(), 0);
});

test('another kind of storage can be chosen', async () => {
  await open();
  await page.getByLabel('Name', { exact: true }).fill('from-form-raft');
  await page.getByRole('button', { name: 'Increment' }).click();
  await toggle(section('Storage')).click();
  await openAll('.advanced');
  const raft = section('Storage', 'Integrated storage (Raft)');
  await toggle(raft).click();
  await openAll('.advanced');
  await raft.getByLabel('Volume size of each node').fill('20Gi');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  assert.equal(await page.getByRole('status').textContent(), 'from-form-raft created');
  assert.deepEqual(created.spec.storage, { raft: { volumeSize: '20Gi' } });
  if (process.env.FORM_RAFT_OUTPUT) {
    await writeFile(process.env.FORM_RAFT_OUTPUT, JSON.stringify(created, null, 2) + '\n');
  }
});

test('the form makes the Vault that was filled in', async () => {
  await open();
  await page.getByLabel('Name', { exact: true }).fill('from-form');
  await page.getByRole('button', { name: 'Increment' }).click();

  await toggle(section('Pods')).click();
  await toggle(section('Pods', 'Resources')).click();
  const requests = section('Pods', 'Resources', 'Requests');
  await requests.getByLabel('CPU cores').fill('200m');
  await requests.getByLabel('Memory').fill('300Mi');

  await toggle(section('Certificates')).click();
  const own = section('Certificates', 'Certificates of your own');
  await toggle(own).click();
  await own.getByLabel('Secret of the server certificate').selectOption('mine');
  await own.getByLabel('Secret of the certificate authority').selectOption('my-ca');

  await toggle(section('Storage')).click();
  const etcd = section('Storage', 'etcd cluster');
  await toggle(etcd).click();
  await etcd.getByLabel('Volume size').fill('4Gi');
  await etcd.getByLabel('When the Vault is deleted').selectOption('Delete');

  if (process.env.FORM_PICTURE) {
    await page.screenshot({ path: process.env.FORM_PICTURE, fullPage: true });
  }
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  assert.equal(await page.getByRole('status').textContent(), 'from-form created');

  const filled = {
    ...sample,
    metadata: { ...sample.metadata, name: 'from-form', namespace },
    spec: {
      ...sample.spec,
      nodes: 3,
      pod: { resources: { requests: { cpu: '200m', memory: '300Mi' } } },
      tls: { static: { serverSecret: 'mine', clientSecret: 'my-ca' } },
      storage: { etcd: { volumeSize: '4Gi', whenDeleted: 'Delete' } },
    },
  };
  // A form has no status, and the API server takes none from who creates an object.
  const { status, ...expected } = withDefaults(schema, filled);
  assert.deepEqual(created, expected);
  if (process.env.FORM_OUTPUT) {
    await writeFile(process.env.FORM_OUTPUT, JSON.stringify(created, null, 2) + '\n');
  }
});
