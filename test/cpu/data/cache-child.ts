// Begins to bring all shards of a set into a cache, and then does nothing else for a long while, as a rank
// does whose step waits for the others: cache-child.ts SET CACHE.
import { ShardCache } from '../../../src/data/stream/cache.ts';
import { MdsIndex } from '../../../src/io/mds/index.ts';

const [set = '', folder = ''] = process.argv.slice(2);
const cache = new ShardCache({ folder });
for (const info of MdsIndex.read(set).shards) void cache.bring(`key-${info.index}`, set, info);
await Bun.sleep(300); // the Workers begin
process.stdout.write('blocked\n');
Bun.sleepSync(60_000);
