// Answers as JSON, errors in OpenAI's form, and the headers that every answer carries.

export type ErrorType = 'invalid_request_error' | 'rate_limit_error' | 'server_error';

/** What went wrong with a request, as the client is told. */
export class Refusal extends Error {
  override readonly name = 'Refusal';

  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly more: {
      readonly param?: string;
      readonly headers?: Readonly<Record<string, string>>;
    } = {},
  ) {
    super(message);
  }

  get type(): ErrorType {
    if (this.status >= 500) return 'server_error';
    return this.status === 429 ? 'rate_limit_error' : 'invalid_request_error';
  }

  /** The body, in the form of OpenAI's errors. */
  get body() {
    const { message, type, code } = this;
    return { error: { message, type, param: this.more.param ?? null, code } };
  }
}

/**
 * On every answer: nothing is guessed, kept, framed or embedded elsewhere. Scripts, styles and pictures come
 * from this server alone; `blob:` is how the page shows pictures that came as text.
 */
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
  'cache-control': 'no-store',
} as const;

/** An answer with a body of this type. */
export function answer(
  body: string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>,
  type: string,
  { status = 200, headers = {} }: { status?: number; headers?: Readonly<Record<string, string>> } = {},
): Response {
  return new Response(body, { status, headers: { ...HEADERS, 'content-type': type, ...headers } });
}

export function json(
  value: unknown,
  init: { status?: number; headers?: Readonly<Record<string, string>> } = {},
) {
  return answer(`${JSON.stringify(value)}\n`, 'application/json; charset=utf-8', init);
}

export function refuse(refusal: Refusal): Response {
  return json(refusal.body, {
    status: refusal.status,
    ...(refusal.more.headers ? { headers: refusal.more.headers } : {}),
  });
}
