# The emoji pack: pictures and captions of the quick start, made from npm packages (about ten seconds).
PACK := src/data/emoji
build/emoji.pack: package.json bun.lock $(PACK)/pack.ts $(PACK)/join.ts $(PACK)/draw.ts $(PACK)/codec.ts \
    $(PACK)/set.ts $(PACK)/held-out.ts $(PACK)/pinned.json src/text/fnv.ts
	$(BUN) run $(PACK)/pack.ts $@
