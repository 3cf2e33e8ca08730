// Records on standard output, and the pictures themselves where they go there too: lines of JSON, MessagePack
// values, or a tar archive with a PNG and a JSON file for each picture.
import { Failure } from '../io/failure.ts';
import { TAR_END, tarEntry } from '../io/tar.ts';
import { type ErrorRecord, type ImageRecord, jsonRecord, packRecord } from '../sample/records.ts';
import { stdout } from './stdout.ts';

export const FORMATS = ['jsonl', 'msgpack', 'tar'] as const;

export type Format = (typeof FORMATS)[number];

interface Options {
  readonly format: Format;
  /** Pictures go to standard output; else they are in files. */
  readonly withPictures: boolean;
  /** Called before anything is written. */
  readonly makeRoom: () => void;
}

/** Everything about one picture is one write: a program that ends between two leaves whole ones. */
export class RecordStream {
  private open = false;

  constructor(private readonly options: Options) {}

  /** `png`: the file's bytes, for formats that carry them; `name`: what it is called in an archive. */
  picture(record: ImageRecord, png: Uint8Array, name: string): void {
    const { format, withPictures } = this.options;
    if (!withPictures) this.put(format === 'jsonl' ? jsonRecord(record) : packRecord(record));
    else if (format === 'jsonl') this.put(png);
    else if (format === 'msgpack') this.put(packRecord(record, png));
    else {
      const file = `${name}.png`;
      const json = Buffer.from(jsonRecord({ ...record, file }));
      this.put(Buffer.concat([tarEntry(file, png), tarEntry(`${name}.json`, json)]));
    }
  }

  /** The record of a picture that is in its file already. */
  known(record: ImageRecord): void {
    this.put(this.options.format === 'jsonl' ? jsonRecord(record) : packRecord(record));
  }

  /** A line that gave no picture. */
  error(record: ErrorRecord): void {
    const { format, withPictures } = this.options;
    if (format === 'msgpack') this.put(packRecord(record));
    else if (format === 'tar') this.put(tarEntry(errorName(record), Buffer.from(jsonRecord(record))));
    else if (!withPictures) this.put(jsonRecord(record));
    else throw new Failure({ what: `picture ${record.index}`, why: record.error });
  }

  /** Begins the stream: from now on it is ended properly, however the program ends. */
  begin(): void {
    if (this.options.format !== 'tar' || this.open) return;
    this.open = true;
    process.once('exit', () => this.end());
  }

  /** Ends the stream; what is written after would not be read. */
  end(): void {
    if (this.open) this.put(TAR_END);
    this.open = false;
  }

  private put(data: string | Uint8Array): void {
    this.options.makeRoom();
    try {
      stdout.write(data);
    } catch (error) {
      this.open = false; // there is no use in ending what cannot be written
      throw error;
    }
  }
}

function errorName({ index }: ErrorRecord): string {
  return `${String(index).padStart(6, '0')}-error.json`;
}
