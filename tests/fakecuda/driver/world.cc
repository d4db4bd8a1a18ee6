#include "world.h"

#include <cstdio>
#include <cstring>

namespace fakecuda {

// The world is never destroyed: streams may still run when the process exits.
World &world()
{
	static World *w = new World;
	return *w;
}

std::string hex(uint64_t v)
{
	char text[24];
	snprintf(text, sizeof text, "%#llx", (unsigned long long)v);
	return text;
}

uint64_t next_random(uint64_t &state) // splitmix64
{
	uint64_t z = state += 0x9E3779B97F4A7C15;
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
	return z ^ (z >> 31);
}

uint64_t hash(const void *p, uint64_t bytes)
{
	const uint8_t *b = static_cast<const uint8_t *>(p);
	uint64_t h = 0xCBF29CE484222325, v;
	for (; bytes >= 8; bytes -= 8, b += 8) {
		memcpy(&v, b, 8);
		h = (h ^ v) * 0x100000001B3;
		h ^= h >> 29;
	}
	for (; bytes > 0; bytes--, b++)
		h = (h ^ *b) * 0x100000001B3;
	return h;
}

bool sticky(int code)
{
	switch (code) {
	case 4: case 46: case 214: case 220: case 700: case 702: case 709: case 710: case 714: case 715:
	case 716: case 717: case 718: case 719: case 721: case 999:
		return true;
	}
	return false;
}

void World::broke(Context *c, int code)
{
	if (c && c->broken == OK)
		c->broken = code;
	changed.notify_all();
}

void World::violate(Context *c, const std::string &text)
{
	const size_t violations_max = 64;
	if (c && c->broken != OK)
		return; // what follows a failure is no program error
	if (violations.size() < violations_max)
		violations.push_back(text);
	last_violation = text;
	if (strict)
		broke(c, ASSERT);
}

void World::begin(Stream *s)
{
	join(s->clock, host);
	host[0]++;
	s->clock[s->who]++;
}

void World::access(Stream *s, uint64_t at, uint64_t bytes, bool write, const std::string &what)
{
	std::string wrong = order.access(at, bytes, write, s->who, s->clock, what);
	if (!wrong.empty())
		violate(s->context, wrong);
}

// inside finds the entry of a map that a range lies in.
template <class T>
static bool inside(const std::map<uint64_t, T> &map, uint64_t at, uint64_t bytes)
{
	auto i = map.upper_bound(at);
	if (i == map.begin())
		return false;
	--i;
	uint64_t from = at - i->first;
	return from <= i->second.bytes && bytes <= i->second.bytes - from;
}

bool World::registered(uint64_t at, uint64_t bytes) const
{
	return inside(registrations, at, bytes);
}

bool World::allocated(uint64_t at, uint64_t bytes) const { return inside(allocations, at, bytes); }

bool World::touched(uint64_t at, uint64_t bytes, bool writes_only) const
{
	for (const Touch &t : touches)
		if ((t.write || !writes_only) && at < t.at + t.bytes && t.at < at + bytes)
			return true;
	return false;
}

void World::push(Stream *s, Op op)
{
	s->queue.push_back(std::move(op));
	changed.notify_all();
}

void World::drain(std::unique_lock<std::mutex> &lock, Stream *s)
{
	changed.wait(lock, [&] { return s->queue.empty() && !s->busy; });
}

void World::drain(std::unique_lock<std::mutex> &lock, Context *c)
{
	changed.wait(lock, [&] {
		for (Stream *s : streams)
			if (s->context == c && (s->busy || !s->queue.empty()))
				return false;
		return true;
	});
}

// serve is a stream's thread. In a broken context ops are dropped, and events complete.
void World::serve(Stream *s)
{
	std::unique_lock<std::mutex> lock(m);
	for (;;) {
		changed.wait(lock, [&] { return (!s->queue.empty() && s->number != hold) || s->closing; });
		if (s->queue.empty())
			return;
		Op op = std::move(s->queue.front());
		s->queue.pop_front();
		s->busy = true;
		if (delay_one_in && next_random(s->random) % delay_one_in == 0 && delay_max_us) {
			uint64_t us = next_random(s->random) % delay_max_us;
			lock.unlock();
			std::this_thread::sleep_for(std::chrono::microseconds(us));
			lock.lock();
		}
		if (op.wait)
			changed.wait(lock, [&] {
				return s->context->broken != OK || op.wait->completed >= op.version;
			});
		if (op.run && s->context->broken == OK) {
			lock.unlock();
			std::string wrong = op.run();
			lock.lock();
			if (!wrong.empty())
				violate(s->context, wrong);
		}
		s->time += op.cost;
		if (op.record) {
			op.record->completed = std::max(op.record->completed, op.version);
			op.record->time = s->time;
		}
		if (op.touches)
			touches.erase(op.touch);
		s->busy = false;
		changed.notify_all();
	}
}

uint64_t World::locked() const
{
	uint64_t bytes = 0;
	for (const auto &r : registrations)
		bytes += r.second.bytes;
	return bytes;
}

std::string World::live() const
{
	int contexts_live = 0;
	for (const Context &c : contexts)
		contexts_live += c.references;
	return "contexts " + std::to_string(contexts_live) + ", streams " +
		std::to_string(streams.size()) + ", events " + std::to_string(events.size()) +
		", modules " + std::to_string(modules.size()) + ", allocations " +
		std::to_string(allocations.size()) + " (" + std::to_string(used) + " bytes), registrations " +
		std::to_string(registrations.size()) + " (" + std::to_string(locked()) +
		" bytes), of cuBLASLt " + std::to_string(blas.size());
}

static thread_local std::vector<Context *> current;

Call::Call(const char *name, bool needs_context) : lock(world().m), w(world())
{
	w.calls++;
	if (!current.empty())
		context = current.back();
	if (w.fail_countdown && (w.fail_name == "any" || w.fail_name == name) &&
		--w.fail_countdown == 0)
		code = w.fail_code;
	else if (w.chance_per_million && next_random(w.chance_state) % 1000000 < w.chance_per_million) {
		static const int codes[] = {1, 2, 3, 4, 34, 46, 100, 101, 200, 201, 209, 214, 218, 220, 221, 222,
			304, 400, 500, 600, 700, 701, 702, 709, 712, 713, 715, 716, 719, 801, 802, 803, 999, 12345};
		code = codes[next_random(w.chance_state) % (sizeof codes / sizeof codes[0])];
	}
	if (sticky(code))
		w.broke(context, code);
	if (!needs_context || code != OK)
		return;
	if (!context || context->references == 0) {
		w.violate(nullptr, std::string(name) + " without a current context");
		code = INVALID_CONTEXT;
	} else {
		code = context->broken;
	}
}

EXPORT int cuCtxPushCurrent_v2(Context *c)
{
	Call call("cuCtxPushCurrent", false);
	const size_t depth_max = 4; // a caller that never pops
	if (!c || c->references == 0) {
		call.w.violate(nullptr, "a context that is destroyed, or never was");
		return INVALID_CONTEXT;
	}
	if (call.code != OK && !c->dead) {
		call.w.broke(c, call.code);
		c->dead = true;
		call.w.drain(call.lock, c);
	}
	if (c->dead)
		return c->broken;
	if (current.size() > depth_max)
		call.w.violate(c, "contexts pile up: pushed, and not popped");
	current.push_back(c);
	return OK;
}

EXPORT int cuCtxPopCurrent_v2(Context **c)
{
	Call call("cuCtxPopCurrent", false);
	if (current.empty())
		return INVALID_CONTEXT;
	*c = current.back();
	current.pop_back();
	return call.code;
}

} // namespace fakecuda
