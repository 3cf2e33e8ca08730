// The script of the page: sends the prompt, shows estimates while the picture is drawn, then the picture.

const at = (id) => document.getElementById(id);
const form = at('order');

/** Order in hand, to stop it; null when there is none. */
let drawing = null;

// The server -----------------------------------------------------------------------------------------

function headers(more = {}) {
  const token = at('token').value.trim();
  return token === '' ? more : { ...more, authorization: `Bearer ${token}` };
}

/** What a refusal says, in the words of the server. */
async function refusalOf(response) {
  if (response.status === 401) at('token-row').hidden = false;
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${response.status}`);
}

/** The events of a stream. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split('\n').find((line) => line.startsWith('data: '));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

// What the engine is ---------------------------------------------------------------------------------

/** What the server told of its model; null before. */
let known = null;

/** Fills the settings with what the model's recipe says; once. */
async function learn() {
  const response = await fetch('/v1/models', { headers: headers() });
  if (!response.ok) throw await refusalOf(response);
  const [{ microdiff }] = (await response.json()).data;
  const { side, max_scale, defaults, samplers, limits } = microdiff;
  at('n').max = limits.n;
  at('steps').max = limits.steps;
  at('steps').value = defaults.steps;
  at('cfg').value = defaults.cfg_scale;
  at('sampler').replaceChildren(...samplers.map((name) => new Option(name)));
  at('sampler').value = defaults.sampler;
  const scales = [1, 2, 4, 8, 16, 32, 64].filter((scale) => scale <= max_scale);
  const sizes = scales.map((scale) => `${scale * side}x${scale * side}`);
  at('size').replaceChildren(...sizes.map((size) => new Option(size.replace('x', ' × '), size)));
  at('size').value = sizes[scales.findIndex((scale) => scale * side >= 256)] ?? sizes[0];
  known = microdiff;
}

/** The line on top: what draws, and how busy it is. */
async function look() {
  const line = at('engine');
  try {
    const response = await fetch('/health', { headers: headers() });
    const { state, model, device, queue } = await response.json();
    if (model === undefined) at('token-row').hidden = false;
    else if (!known && model !== null) await learn();
    const busy = queue > 0 ? `${queue} waiting` : '';
    line.textContent = [model, device, state, busy].filter(Boolean).join(' · ');
  } catch {
    line.textContent = 'the server does not answer';
  }
}

// Pictures -------------------------------------------------------------------------------------------

/** The place of one picture: its frame, how far it is, and what it was made with. */
function newCard(order) {
  const card = document.createElement('figure');
  const frame = document.createElement('div');
  frame.className = 'frame';
  const waiting = document.createElement('span');
  waiting.textContent = 'begins';
  frame.append(waiting);
  const bar = document.createElement('progress');
  bar.max = order.steps;
  bar.value = 0;
  bar.setAttribute('aria-label', 'Steps');
  const caption = document.createElement('figcaption');
  const words = document.createElement('span');
  words.textContent = order.prompt;
  const how = document.createElement('span');
  how.className = 'how';
  caption.append(words, how);
  card.append(frame, bar, caption);
  return { card, frame, waiting, bar, caption, how, image: null, link: null, finished: false };
}

/** Shows a picture that came as text; the one before is let go. */
function show(view, b64, prompt) {
  const bytes = Uint8Array.from(atob(b64), (char) => char.charCodeAt(0));
  const before = view.image?.src;
  if (!view.image) {
    view.image = new Image();
    view.image.addEventListener('load', () => {
      view.image.classList.toggle('small', view.image.naturalWidth < 256);
    });
    view.frame.append(view.image);
  }
  view.image.alt = prompt;
  view.image.src = URL.createObjectURL(new Blob([bytes], { type: 'image/png' }));
  view.waiting.hidden = true;
  if (before) URL.revokeObjectURL(before);
}

function finish(view, event, order) {
  show(view, event.b64_json, order.prompt);
  view.finished = true;
  view.bar.hidden = true;
  const cut = event.truncated ? ', the prompt was cut' : '';
  view.how.textContent = `seed ${event.seed}, ${order.steps} steps, guidance ${order.cfg_scale}${cut}`;
  const link = document.createElement('a');
  link.href = view.image.src;
  const words = order.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ['picture'];
  link.download = `${words.join('-').slice(0, 60)}-${event.seed}.png`;
  link.textContent = 'Download PNG';
  view.link = link;
  view.caption.append(link);
}

function fail(view, why) {
  view.finished = true;
  view.bar.hidden = true;
  view.waiting.textContent = 'not drawn';
  view.waiting.hidden = view.image !== null;
  view.how.className = 'how bad';
  view.how.textContent = why;
}

function hear(view, event, order) {
  if (event.type === 'image_generation.queued') {
    view.waiting.textContent = `waiting, ${event.before} before it`;
  } else if (event.type === 'image_generation.partial_image') {
    show(view, event.b64_json, order.prompt);
    view.bar.value = event.step;
    view.how.textContent = `step ${event.step} of ${event.steps}`;
  } else if (event.type === 'image_generation.completed') {
    finish(view, event, order);
  } else if (event.type === 'error') {
    fail(view, event.error.message);
  }
}

// Orders ---------------------------------------------------------------------------------------------

/** The order that the form asks for; what was emptied is as the model's recipe says. */
function orderOfForm() {
  const seed = at('seed').value.trim();
  const negative = at('negative').value.trim();
  const number = (id, otherwise) => (at(id).value === '' ? otherwise : Number(at(id).value));
  return {
    prompt: at('prompt').value.trim(),
    n: number('n', 1),
    steps: number('steps', known.defaults.steps),
    cfg_scale: number('cfg', known.defaults.cfg_scale),
    sampler: at('sampler').value,
    size: at('size').value,
    stream: true,
    partial_images: 12,
    ...(seed === '' ? {} : { seed: Number(seed) }),
    ...(negative === '' ? {} : { negative_prompt: negative }),
  };
}

function complain(why) {
  at('error').textContent = why;
  at('error').hidden = why === '';
}

function setDrawing(stop) {
  drawing = stop;
  at('draw').hidden = stop !== null;
  at('stop').hidden = stop === null;
}

/** How it ended, for those who do not see it. */
function announce(views) {
  const drawn = views.filter((view) => view.link).length;
  at('said').textContent = `${drawn} of ${views.length} pictures drawn`;
}

async function draw() {
  const stop = new AbortController();
  setDrawing(stop);
  complain('');
  let views = [];
  try {
    if (!known) await learn();
    const order = orderOfForm();
    const response = await fetch('/v1/images/generations', {
      method: 'POST',
      headers: headers({ 'content-type': 'application/json' }),
      body: JSON.stringify(order),
      signal: stop.signal,
    });
    if (!response.ok) throw await refusalOf(response);
    views = Array.from({ length: order.n }, () => newCard(order));
    at('empty').hidden = true;
    at('pictures').prepend(...views.map((view) => view.card));
    void look();
    for await (const event of eventsOf(response)) hear(views[event.index], event, order);
    announce(views);
    if (views.some((view) => !view.finished)) throw new Error('the server broke off');
  } catch (error) {
    const why = stop.signal.aborted ? 'stopped' : error.message;
    for (const view of views) if (!view.finished) fail(view, why);
    if (!stop.signal.aborted) complain(`Could not draw: ${why}`);
  } finally {
    setDrawing(null);
    void look();
  }
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (!drawing) void draw();
});
at('prompt').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
// What is wrong with a setting shows only where the settings do.
form.addEventListener(
  'invalid',
  () => {
    at('settings').open = true;
  },
  true,
);
at('stop').addEventListener('click', () => drawing?.abort());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') drawing?.abort();
});
at('token').addEventListener('change', () => void look());

at('prompt').focus();
void look();
setInterval(look, 5000);
