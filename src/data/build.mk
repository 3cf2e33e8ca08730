# The emoji pack: pictures and captions of the quick start, made from npm packages (about ten seconds).
build/emoji.pack: package.json bun.lock $(wildcard src/data/emoji/*.ts) src/data/emoji/pinned.json \
    src/text/fnv.ts
	$(BUN) run src/data/emoji/pack.ts $@
