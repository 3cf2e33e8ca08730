// How ranks find each other: rank 0 listens, the others call it; it compares what they are about to train and
// hands round what they join by. The connections stay: one that breaks is the sign that a rank is gone.
import { readFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Group, Rank } from '../backend/backend.ts';
import { EXIT, Failure, RankLost } from '../io/failure.ts';
import { osCode } from '../io/oserror.ts';

export interface Appointment extends Rank {
  /** Where rank 0 is reached, and listens. */
  readonly host: string;
  readonly port: number;
  /** How long to wait for the others. */
  readonly seconds: number;
  readonly group: Group;
  /** What all ranks must have alike, by the words for it in messages. */
  readonly facts: Readonly<Record<string, string>>;
  /** All ranks have to be on one machine. */
  readonly near: boolean;
}

/** A group that has come together. */
export interface Meeting {
  /** Settles when a rank is gone that has not said so before. */
  readonly lost: Promise<RankLost>;
  /** Tells the others that this rank is done. */
  end(): void;
}

const RETRY_MS = 100;

type Message = Readonly<Record<string, unknown>>;

/** A connection that carries a JSON object a line. */
class Wire {
  private readonly queue: Message[] = [];
  private readonly waiting: ((message: Message | null) => void)[] = [];
  private text = '';
  /** The other side has said that it is done. */
  finished = false;
  closed = false;
  readonly gone: Promise<void>;

  constructor(private readonly socket: Socket) {
    socket.setEncoding('utf8');
    socket.setKeepAlive(true, 5000);
    socket.on('data', (part) => this.take(String(part)));
    socket.on('error', () => {});
    this.gone = new Promise((resolve) => {
      socket.on('close', () => {
        this.closed = true;
        for (const answer of this.waiting.splice(0)) answer(null);
        resolve();
      });
    });
  }

  send(message: Message): void {
    if (!this.closed) this.socket.write(`${JSON.stringify(message)}\n`);
  }

  /** The next message; null where the connection ended, or sent something else. */
  next(): Promise<Message | null> {
    const message = this.queue.shift();
    if (message || this.closed) return Promise.resolve(message ?? null);
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  close(): void {
    this.socket.end();
  }

  private take(part: string): void {
    this.text += part;
    for (let end = this.text.indexOf('\n'); end >= 0; end = this.text.indexOf('\n')) {
      const message = parsed(this.text.slice(0, end));
      this.text = this.text.slice(end + 1);
      if (!message) return void this.socket.destroy();
      if (message.done === true) this.finished = true;
      else (this.waiting.shift() ?? ((it) => void (it && this.queue.push(it))))(message);
    }
  }
}

function parsed(line: string): Message | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? { ...value } : null;
  } catch {
    return null;
  }
}

/**
 * Brings all ranks together and joins the backend's group. Throws a Failure on every rank where one has
 * another recipe or version, comes twice or not in time, and on rank 0 (code 2) where its port is taken.
 */
export async function meet(appointment: Appointment): Promise<Meeting> {
  return appointment.rank === 0 ? receive(appointment) : call(appointment);
}

/** What a rank says of itself. */
function hello({ rank, ranks, facts }: Appointment): Message {
  return { rank, ranks, facts, machine: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim() };
}

async function receive(appointment: Appointment): Promise<Meeting> {
  const { ranks, group } = appointment;
  const { server, wires } = await gather(appointment);
  try {
    const invitation = await group.invite(ranks);
    for (const wire of wires.values()) wire.send({ join: invitation });
    await group.join(invitation, { rank: 0, ranks });
    for (const [rank, wire] of wires) {
      if ((await wire.next())?.joined !== true) throw new RankLost(`rank ${rank}`);
    }
  } catch (error) {
    for (const wire of wires.values()) wire.send({ refused: error instanceof Error ? error.message : '' });
    throw error;
  } finally {
    server.close();
  }
  for (const wire of wires.values()) wire.send({ go: true });
  return watch(wires);
}

/** Listens until all other ranks have come and are fit. */
async function gather(appointment: Appointment): Promise<{ server: Server; wires: Map<number, Wire> }> {
  const { ranks, seconds } = appointment;
  const wires = new Map<number, Wire>();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  promise.catch(() => {}); // told where it is waited for
  const greet = async (wire: Wire) => {
    const said = await wire.next();
    if (typeof said?.rank !== 'number') return wire.close(); // a stranger
    const fault = unfit(appointment, said, wires);
    if (fault) {
      wire.send({ refused: fault.message, code: fault.code });
      return reject(fault);
    }
    wires.set(said.rank, wire);
    wire.gone.then(() => reject(new RankLost(`rank ${said.rank}`)));
    if (wires.size === ranks - 1) resolve();
  };
  const server = await listen(appointment, (socket) => void greet(new Wire(socket)));
  const timer = setTimeout(() => {
    const missing = Array.from({ length: ranks - 1 }, (_, i) => i + 1).filter((rank) => !wires.has(rank));
    const who = missing.length > 1 ? `ranks ${missing.join(', ')} have` : `rank ${missing[0]} has`;
    const fix = 'Start all ranks, with the same MASTER_ADDR and MASTER_PORT';
    reject(new Failure({ what: 'ranks', why: `${who} not come within ${seconds} s`, fix }));
  }, 1000 * seconds);
  try {
    await promise;
    return { server, wires };
  } catch (error) {
    const refused = error instanceof Error ? error.message : '';
    for (const wire of wires.values())
      wire.send({ refused, code: error instanceof Failure ? error.code : 1 });
    server.close();
    await Bun.sleep(RETRY_MS); // what was said goes out before the process ends
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Why a rank cannot take part, or null. */
function unfit(appointment: Appointment, said: Message, wires: ReadonlyMap<number, Wire>): Failure | null {
  const { ranks, facts, near } = appointment;
  const own = hello(appointment);
  const what = `rank ${String(said.rank)}`;
  const refuse = (why: string, fix: string) => new Failure({ what, why, fix, code: EXIT.usage });
  if (said.ranks !== ranks) {
    return refuse(`counts ${String(said.ranks)} ranks, rank 0 counts ${ranks}`, 'Set WORLD_SIZE alike');
  }
  if (wires.has(Number(said.rank))) return refuse('has come twice', 'Give every process a RANK of its own');
  const theirs = (said.facts ?? {}) as Readonly<Record<string, unknown>>;
  const other = Object.keys(facts).find((name) => theirs[name] !== facts[name]);
  if (other) return refuse(`has another ${other} than rank 0`, 'Start all ranks with the same command');
  if (near && said.machine !== own.machine) {
    return refuse('is on another machine', 'On the CPU all ranks are processes of one machine');
  }
  return null;
}

function listen({ host, port }: Appointment, came: (socket: Socket) => void): Promise<Server> {
  const server = createServer(came);
  const local = host === 'localhost' || /^127\./.test(host);
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      const taken = osCode(error) === 'EADDRINUSE';
      const why = taken ? 'is taken by another program' : error.message;
      const what = `port ${port} (MASTER_PORT + 1)`;
      reject(new Failure({ what, why, fix: 'Choose another MASTER_PORT', code: EXIT.usage }));
    });
    server.listen(port, local ? '127.0.0.1' : '0.0.0.0', () => resolve(server));
  });
}

async function call(appointment: Appointment): Promise<Meeting> {
  const { group, rank, ranks } = appointment;
  const wire = new Wire(await reach(appointment));
  wire.send(hello(appointment));
  const answer = async (key: string) => {
    const said = await wire.next();
    if (typeof said?.refused === 'string') {
      const code = said.code === EXIT.usage ? EXIT.usage : EXIT.failed;
      throw new Failure({ what: 'refused by rank 0', why: said.refused, code });
    }
    if (said?.[key] === undefined) throw new RankLost('rank 0');
    return said[key];
  };
  await group.join(String(await answer('join')), { rank, ranks });
  wire.send({ joined: true });
  await answer('go');
  return watch(new Map([[0, wire]]));
}

/** A connection to rank 0, which may not be there yet. */
async function reach({ host, port, seconds }: Appointment): Promise<Socket> {
  const deadline = performance.now() + 1000 * seconds;
  for (;;) {
    const socket = connect({ host, port });
    const fault = await new Promise<Error | null>((resolve) => {
      socket.once('connect', () => resolve(null));
      socket.once('error', resolve);
    });
    if (!fault) return socket;
    socket.destroy();
    if (performance.now() > deadline) {
      const why = `is not there after ${seconds} s (${fault.message})`;
      const fix = 'Check MASTER_ADDR and MASTER_PORT; the port above it must be open';
      throw new Failure({ what: `rank 0 at ${host}:${port}`, why, fix });
    }
    await Bun.sleep(RETRY_MS);
  }
}

function watch(wires: ReadonlyMap<number, Wire>): Meeting {
  let over = false;
  const lost = Promise.withResolvers<RankLost>();
  for (const [rank, wire] of wires) {
    wire.gone.then(() => {
      if (!over && !wire.finished) lost.resolve(new RankLost(`rank ${rank}`));
    });
  }
  return {
    lost: lost.promise,
    end() {
      over = true;
      for (const wire of wires.values()) {
        wire.send({ done: true });
        wire.close();
      }
    },
  };
}
