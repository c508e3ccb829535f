// The rules by which OpenShift's console turns a CRD's schema and a
// ClusterServiceVersion's specDescriptors into a form, as far as the form of a
// Vault needs them.

const TECTONIC = 'urn:alm:descriptor:com.tectonic.ui:';
const KUBERNETES = 'urn:alm:descriptor:io.kubernetes:';

const isObject = (value) => value !== null && typeof value === 'object';
const isEmpty = (value) => !isObject(value) || Object.keys(value).length === 0;

// Array indexes in a descriptor's path stand for the array's items.
const pathOf = (descriptor) =>
  descriptor.path.match(/[^.[\]]+/g).map((part) => (/^\d+$/.test(part) ? 'items' : part));

export const schemaAt = (schema, path) =>
  path.reduce((at, part) => (part === 'items' ? at?.items : at?.properties?.[part]), schema);

// 'nodeAffinity' is shown as 'Node Affinity' when nothing names it.
export const startCase = (name) =>
  (name.match(/[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+/g) ?? [])
    .map((word) => word[0].toUpperCase() + word.slice(1))
    .join(' ');

export const labelOf = (schema, uiSchema, name) =>
  uiSchema?.['ui:title'] || schema?.title || startCase(name ?? '');

// The x-descriptors that a value of each type can have; others have no effect.
const COMPATIBLE = {
  object: ['advanced', 'hidden', 'resourceRequirements'].map((name) => TECTONIC + name),
  array: ['advanced', 'hidden'].map((name) => TECTONIC + name),
  other: [
    ...['advanced', 'hidden', 'booleanSwitch', 'number', 'podCount', 'select:', 'text'].map(
      (name) => TECTONIC + name,
    ),
    KUBERNETES,
  ],
};

const WIDGETS = {
  hidden: 'hidden',
  booleanSwitch: 'SwitchWidget',
  number: 'TextWidget',
  podCount: 'PodCountWidget',
  text: 'TextWidget',
};

function control(capabilities) {
  const kind = capabilities.find((capability) => capability.startsWith(KUBERNETES));
  if (kind) {
    return { 'ui:widget': 'K8sResourceWidget', 'ui:options': { kind: kind.split(':').at(-1) } };
  }
  const names = capabilities.map((capability) => capability.slice(TECTONIC.length));
  const choices = names.filter((name) => name.startsWith('select:'));
  if (choices.length > 0) {
    return { 'ui:field': 'DropdownField', 'ui:items': choices.map((name) => name.slice('select:'.length)) };
  }
  if (names.includes('resourceRequirements')) {
    return { 'ui:field': 'ResourceRequirementsField' };
  }
  const widget = names.map((name) => WIDGETS[name]).find(Boolean);
  return widget ? { 'ui:widget': widget } : {};
}

function descriptorsToUISchema(descriptors, schema) {
  const root = {};
  descriptors.forEach((descriptor, index) => {
    const path = pathOf(descriptor);
    const target = schemaAt(schema, path);
    if (!target) {
      return;
    }
    const compatible = COMPATIBLE[target.type] ?? COMPATIBLE.other;
    const capabilities = (descriptor['x-descriptors'] ?? []).filter((capability) =>
      compatible.some((prefix) => capability.startsWith(prefix)),
    );
    const name = path.at(-1);
    const parent = path.slice(0, -1).reduce((at, part) => (at[part] ??= {}), root);
    if (capabilities.includes(TECTONIC + 'advanced')) {
      (parent['ui:advanced'] ??= []).push(name);
    }
    // This replaces what descriptors of the object's own fields put there, so
    // an object has to be described before its fields.
    parent[name] = {
      ...(descriptor.description && { 'ui:description': descriptor.description }),
      ...(descriptor.displayName && { 'ui:title': descriptor.displayName }),
      ...control(capabilities),
      'ui:sortOrder': index + 1,
    };
  });
  return root;
}

// An object without a descriptor stands where the first of its fields does.
function sortOrder(uiSchema, fallback) {
  if (uiSchema?.['ui:sortOrder'] !== undefined) {
    return uiSchema['ui:sortOrder'];
  }
  const children = Object.entries(uiSchema ?? {}).map(([key, child]) =>
    !key.includes(':') && isObject(child) ? sortOrder(child, fallback) : fallback,
  );
  return Math.min(fallback, ...children);
}

// Required fields come first, then those with a descriptor, then the others.
function addOrder(schema, uiSchema) {
  if (schema?.type === 'array') {
    return { ...uiSchema, items: addOrder(schema.items, uiSchema?.items) };
  }
  const names = Object.keys(schema?.properties ?? {});
  if (schema?.type !== 'object' || names.length === 0) {
    return uiSchema;
  }
  const weight = (name) => {
    const required = schema.required?.includes(name);
    const described = uiSchema?.[name] !== undefined;
    if (!required && !described) {
      return Infinity;
    }
    return sortOrder(uiSchema?.[name], names.length) - (required ? 1e9 : 0) - (described ? 1e6 : 0);
  };
  const compare = (a, b) => (weight(a) === weight(b) ? 0 : weight(a) - weight(b));
  const ordered = { ...uiSchema, 'ui:order': [...names].sort(compare) };
  for (const name of names) {
    ordered[name] = addOrder(schema.properties[name], uiSchema?.[name]) ?? {};
  }
  return ordered;
}

const hidden = { 'ui:widget': 'hidden', 'ui:options': { label: false } };

export const uiSchemaOf = (schema, descriptors) => ({
  apiVersion: hidden,
  kind: hidden,
  metadata: {
    namespace: hidden,
    name: { 'ui:title': 'Name', 'ui:widget': 'TextWidget' },
    labels: { 'ui:title': 'Labels', 'ui:field': 'LabelsField' },
    'ui:options': { label: false },
    'ui:order': ['name', 'labels', '*'],
  },
  spec: {
    ...addOrder(schema.properties.spec, descriptorsToUISchema(descriptors, schema.properties.spec)),
    'ui:options': { label: false },
  },
  'ui:order': ['metadata', 'spec', '*'],
});

// The console knows an object's metadata better than the CRD does, and draws no
// status.
export function formSchemaOf(crdSchema) {
  const string = { type: 'string' };
  const { status, ...properties } = crdSchema.properties;
  return {
    ...crdSchema,
    properties: {
      ...properties,
      metadata: {
        type: 'object',
        properties: {
          namespace: string,
          name: { ...string, default: 'example' },
          labels: { type: 'object', properties: {}, additionalProperties: string },
        },
        required: ['name'],
      },
    },
  };
}

// What the console cannot draw it leaves out without a word: values of more
// than one type (allOf, anyOf, oneOf) and maps, which have no named properties.
export function hasNoFields(schema = {}, uiSchema = {}) {
  if (isEmpty(schema) || ['allOf', 'anyOf', 'oneOf'].some((key) => key in schema)) {
    return true;
  }
  if (['boolean', 'integer', 'number', 'string'].includes(schema.type)) {
    return false;
  }
  if (uiSchema['ui:field'] || uiSchema['ui:widget']) {
    return false;
  }
  if (schema.type === 'array') {
    return hasNoFields(schema.items, uiSchema.items);
  }
  return Object.entries(schema.properties ?? {}).every(([name, property]) =>
    hasNoFields(property, uiSchema[name]),
  );
}

// Leaves out what is empty, unless it is as empty in the sample.
export function prune(value, sample) {
  if (Array.isArray(value)) {
    return value.map((item, index) => prune(item, sample?.[index])).filter((item) => !unset(item));
  }
  if (!isObject(value)) {
    return value;
  }
  const kept = Object.entries(value)
    .map(([key, child]) => [key, prune(child, sample?.[key]), sample?.[key]])
    .filter(([, child, like]) => !unset(child) || (like != null && unset(like)));
  return Object.fromEntries(kept.map(([key, child]) => [key, child]));
}

const unset = (value) =>
  value == null || value === '' || Number.isNaN(value) || (isObject(value) && isEmpty(value));
