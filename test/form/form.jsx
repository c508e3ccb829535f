// Draws the form with the widgets that the console has for each descriptor.
import { useId, useState } from 'react';
import { createRoot } from 'react-dom/client';
import Form, { getDefaultRegistry } from '@rjsf/core';
import { getUiOptions } from '@rjsf/utils';
import validator from '@rjsf/validator-ajv8';
import { formSchemaOf, hasNoFields, labelOf, prune, uiSchemaOf } from './rules.js';
import './form.css';

const DefaultSchemaField = getDefaultRegistry().fields.SchemaField;

function Description({ description }) {
  if (!description) {
    return null;
  }
  const parts = description.split(/(https?:\/\/\S+)/);
  return (
    <div className="help">
      {parts.map((part, index) => (index % 2 ? <a key={index} href={part}>{part}</a> : part))}
    </div>
  );
}

function FormField({ id, label, required, children }) {
  return (
    <div className="field" data-field={id}>
      <label htmlFor={id} className={required ? 'required' : ''}>{label}</label>
      {children}
    </div>
  );
}

function Expandable({ className, label, required, description, children, id }) {
  const [open, setOpen] = useState(false);
  const toggle = useId();
  return (
    <div className={className} role="group" aria-labelledby={toggle} data-field={id}>
      <button type="button" className="toggle" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span id={toggle} className={required ? 'label required' : 'label'}>{label}</span>
      </button>
      <Description description={description} />
      <div className="content" hidden={!open}>{children}</div>
    </div>
  );
}

function FieldSet({ fieldPathId, schema, uiSchema, name, required, children }) {
  const { label: shown = true, description } = getUiOptions(uiSchema);
  const label = labelOf(schema, uiSchema, name);
  if (!shown || !label) {
    return children;
  }
  return (
    <Expandable
      className="group"
      id={fieldPathId.$id}
      label={label}
      required={required}
      description={description || schema.description}
    >
      {children}
    </Expandable>
  );
}

function SchemaField(props) {
  const schema = props.registry.schemaUtils.retrieveSchema(props.schema, props.formData);
  return hasNoFields(schema, props.uiSchema) ? null : <DefaultSchemaField {...props} />;
}

function FieldTemplate({ id, hidden, schema, uiSchema, label, required, children, description }) {
  if (hidden) {
    return null;
  }
  if (schema.type === 'object' || schema.type === 'array') {
    return children;
  }
  return (
    <FormField id={id} label={labelOf(schema, uiSchema, label)} required={required}>
      {children}
      {description}
    </FormField>
  );
}

function ObjectFieldTemplate({ properties, title, ...props }) {
  const advanced = getUiOptions(props.uiSchema).advanced ?? [];
  const normal = properties.filter(({ name }) => !advanced.includes(name));
  const rest = properties.filter(({ name }) => advanced.includes(name));
  return (
    <FieldSet {...props} name={title}>
      {normal.map(({ content }) => content)}
      {rest.length > 0 && (
        <Expandable className="advanced" label="Advanced configuration">
          {rest.map(({ content }) => content)}
        </Expandable>
      )}
    </FieldSet>
  );
}

function ArrayFieldTemplate({ items, onAddClick, title, ...props }) {
  return (
    <FieldSet {...props} name={title}>
      {items}
      <button type="button" className="link" onClick={onAddClick}>
        Add {labelOf(props.schema, props.uiSchema, title)}
      </button>
    </FieldSet>
  );
}

const ArrayFieldItemTemplate = ({ children }) => children;

function TextWidget({ id, schema, value = '', onChange }) {
  const number = schema.type === 'integer' || schema.type === 'number';
  const parse = (text) => (number && text !== '' ? Number(text) : text);
  return (
    <input
      id={id}
      type={number ? 'number' : 'text'}
      value={value}
      onChange={(event) => onChange(parse(event.target.value))}
    />
  );
}

function PodCountWidget({ id, value, onChange }) {
  const count = Math.trunc(Number(value)) || 0;
  return (
    <div className="spinner">
      <button type="button" aria-label="Decrement" onClick={() => onChange(count - 1)}>−</button>
      <input
        id={id}
        type="number"
        value={value ?? ''}
        onChange={(event) => onChange(Math.trunc(Number(event.target.value)) || 0)}
      />
      <button type="button" aria-label="Increment" onClick={() => onChange(count + 1)}>+</button>
    </div>
  );
}

function SwitchWidget({ id, value, onChange }) {
  return (
    <input
      id={id}
      type="checkbox"
      role="switch"
      checked={value ?? false}
      onChange={(event) => onChange(event.target.checked)}
    />
  );
}

function Select({ id, value = '', items, placeholder, onChange }) {
  return (
    <select id={id} value={value} onChange={(event) => onChange(event.target.value)}>
      <option value="" disabled hidden>{placeholder}</option>
      {items.map((item) => <option key={item}>{item}</option>)}
    </select>
  );
}

const SelectWidget = ({ options, label, ...props }) => (
  <Select {...props} items={options.enumOptions.map(({ value }) => value)} placeholder={`Select ${label}`} />
);

const K8sResourceWidget = ({ options, registry, ...props }) => (
  <Select {...props} items={registry.formContext.objects[options.kind]} placeholder={`Select ${options.kind}`} />
);

function DropdownField({ fieldPathId, uiSchema, formData, onChange }) {
  const { items, title } = getUiOptions(uiSchema);
  const choose = (value) => onChange(value, fieldPathId.path);
  return (
    <Select id={fieldPathId.$id} value={formData} items={items} placeholder={`Select ${title}`} onChange={choose} />
  );
}

function ResourceRequirementsField(props) {
  const { fieldPathId, formData, onChange } = props;
  const id = fieldPathId.$id;
  const input = (list, resource, label, placeholder) => (
    <div>
      <label htmlFor={`${id}_${list}_${resource}`}>{label}</label>
      <input
        id={`${id}_${list}_${resource}`}
        type="text"
        placeholder={placeholder}
        value={formData?.[list]?.[resource] ?? ''}
        onChange={({ target }) =>
          onChange({ ...formData, [list]: { ...formData?.[list], [resource]: target.value } }, fieldPathId.path)
        }
      />
    </div>
  );
  return (
    <FieldSet {...props}>
      {['limits', 'requests'].map((list) => (
        <fieldset key={list} className="resources">
          <legend>{list === 'limits' ? 'Limits' : 'Requests'}</legend>
          {input(list, 'cpu', 'CPU cores', '500m')}
          {input(list, 'memory', 'Memory', '50Mi')}
          {input(list, 'ephemeral-storage', 'Storage', '50Mi')}
        </fieldset>
      ))}
    </FieldSet>
  );
}

function LabelsField({ fieldPathId, schema, uiSchema, name, onChange }) {
  const parse = (text) =>
    Object.fromEntries(text.split(/[\s,]+/).filter(Boolean).map((label) => label.split('=')));
  return (
    <FormField id={fieldPathId.$id} label={labelOf(schema, uiSchema, name)}>
      <input
        id={fieldPathId.$id}
        type="text"
        placeholder="app=frontend"
        onBlur={({ target }) => onChange(parse(target.value), fieldPathId.path)}
      />
    </FormField>
  );
}

function OperandForm({ schema, api, sample, namespace, objects }) {
  const [formData, setFormData] = useState(sample);
  const [message, setMessage] = useState();
  const formSchema = formSchemaOf(schema);
  // As in the console the form refuses nothing itself: it shows why the API
  // server does.
  const submit = async ({ formData: { metadata, ...rest } }) => {
    const object = prune({ metadata: { ...metadata, namespace }, ...rest }, sample);
    const response = await fetch('create', { method: 'POST', body: JSON.stringify(object) });
    setMessage(await response.json());
  };
  return (
    <>
      <h1>Create {api.kind}</h1>
      <p className="help">
        Create by completing the form. Default values may be provided by the Operator authors.
      </p>
      <section className="api">
        <h2>{api.displayName}</h2>
        <p>{api.description}</p>
      </section>
      <Form
        noValidate
        noHtml5Validate
        schema={formSchema}
        uiSchema={uiSchemaOf(formSchema, api.specDescriptors)}
        formData={formData}
        formContext={{ objects }}
        validator={validator}
        fields={{ SchemaField, DropdownField, LabelsField, ResourceRequirementsField }}
        widgets={{ K8sResourceWidget, PodCountWidget, SelectWidget, SwitchWidget, TextWidget, CheckboxWidget: SwitchWidget }}
        templates={{
          FieldTemplate,
          ObjectFieldTemplate,
          ArrayFieldTemplate,
          ArrayFieldItemTemplate,
          DescriptionFieldTemplate: Description,
          BaseInputTemplate: TextWidget,
        }}
        onChange={(next) => setFormData(next.formData)}
        onSubmit={submit}
      >
        {message?.error && <div role="alert" className="error"><b>Error</b>{message.error}</div>}
        {message?.created && <div role="status" className="created">{message.created} created</div>}
        <div className="actions"><button type="submit">Create</button></div>
      </Form>
    </>
  );
}

const input = await (await fetch('input.json')).json();
createRoot(document.getElementById('root')).render(<OperandForm {...input} />);
