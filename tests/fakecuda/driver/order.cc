// The order of accesses, by vector clocks. A thread of work (the host, or a stream) has a clock: how
// far into each other's work it is known to come after. An access is in order if what it conflicts
// with lies within the clock. Clocks move with the calls of the host alone, so what is found does
// not depend on how fast the streams happened to be.
#include "world.h"

namespace fakecuda {

void join(Clock &into, const Clock &from)
{
	if (into.size() < from.size())
		into.resize(from.size());
	for (size_t i = 0; i < from.size(); i++)
		if (into[i] < from[i])
			into[i] = from[i];
}

bool Order::before(const Epoch &e, uint32_t who, const Clock &clock)
{
	return e.time == 0 || e.who == who || (e.who < clock.size() && e.time <= clock[e.who]);
}

void Order::split(uint64_t at)
{
	auto i = ranges.upper_bound(at);
	if (i == ranges.begin())
		return;
	--i;
	if (i->first == at || i->second.end <= at)
		return;
	Range right = i->second;
	i->second.end = at;
	ranges.emplace(at, right);
}

void Order::forget(uint64_t at, uint64_t bytes)
{
	if (bytes == 0)
		return;
	split(at);
	split(at + bytes);
	ranges.erase(ranges.lower_bound(at), ranges.lower_bound(at + bytes));
}

std::string Order::access(uint64_t at, uint64_t bytes, bool write, uint32_t who,
	const Clock &clock, const std::string &what)
{
	if (bytes == 0)
		return "";
	split(at);
	split(at + bytes);
	std::string wrong;
	auto report = [&](const Epoch &e, bool was_write, uint64_t from, uint64_t to) {
		if (wrong.empty() && !before(e, who, clock))
			wrong = "missing wait: " + what + (write ? " writes " : " reads ") +
				std::to_string(to - from) + " bytes at " + hex(from) + " that " + *e.what +
				(was_write ? " writes" : " reads") + ", and nothing orders the two";
	};
	const Epoch mine{who, clock[who], &*texts.insert(what).first};
	uint64_t covered = at;
	for (auto i = ranges.lower_bound(at); i != ranges.end() && i->first < at + bytes; ++i) {
		Range &r = i->second;
		report(r.write, true, i->first, r.end);
		for (const Epoch &e : r.reads)
			if (write)
				report(e, false, i->first, r.end);
		if (write)
			continue;
		if (covered < i->first)
			ranges.emplace(covered, Range{i->first, {}, {mine}});
		covered = r.end;
		bool known = false;
		for (Epoch &e : r.reads)
			if (e.who == who) {
				e = mine;
				known = true;
			}
		if (!known)
			r.reads.push_back(mine);
	}
	if (write) {
		ranges.erase(ranges.lower_bound(at), ranges.lower_bound(at + bytes));
		ranges.emplace(at, Range{at + bytes, mine, {}});
	} else if (covered < at + bytes) {
		ranges.emplace(covered, Range{at + bytes, {}, {mine}});
	}
	return wrong;
}

} // namespace fakecuda
